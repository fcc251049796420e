"""A study's folder as a page, a text and a model card: reads files only, computes no study."""
