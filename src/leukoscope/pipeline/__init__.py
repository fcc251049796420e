"""What one study is made of: inputs, the feature store, folds, fits, probes, statistics."""
