"""Other tools' names over this package, for code that was written for them; docs/migration.md has one table for each.

`crfrnn.compat.pydensecrf` needs NumPy alone, `crfrnn.compat.monai` the torch extra, and neither the tool itself.
"""
