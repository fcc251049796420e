"""What classifiers are fitted on: versions of each image, one pass over the files, the store."""
