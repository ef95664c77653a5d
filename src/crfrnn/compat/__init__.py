"""Other tools' names over this package, for code that was written for them; docs/migration.md has one table for each.

`crfrnn.compat.pydensecrf` needs only NumPy, and `crfrnn.compat.monai` the torch extra. Neither needs the tool itself.
"""
