"""Beyond one process: batch scoring, jobs of a study, distributed training."""
