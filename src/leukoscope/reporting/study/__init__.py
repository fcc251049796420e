"""The report of one study, its checklists and its model card."""
