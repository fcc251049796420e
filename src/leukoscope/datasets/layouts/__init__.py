"""From a folder, table or archive as published to images with classes and patients."""
