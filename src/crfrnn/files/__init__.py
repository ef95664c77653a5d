"""Files and pictures: photos, volumes, parameters, classes and their colours."""
