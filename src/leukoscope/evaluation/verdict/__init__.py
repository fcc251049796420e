"""What the evidence of a study earns: shortcut sources, the rule, its sentences."""
