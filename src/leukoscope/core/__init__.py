"""What every layer shares: errors, class names, records, and safe file access."""
