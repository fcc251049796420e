"""One study from data to bundle: the run and its plan, the final model, explanations."""
