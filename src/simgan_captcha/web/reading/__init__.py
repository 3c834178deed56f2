"""Reading of uploaded images, with the recognizer of a run or with the generalist."""
