"""``distill convert`` and ``distill vocabulary``."""

from distill.tools import convert
from distill.tools import vocabulary_command as vocabulary

convert_command = convert.run
vocabulary_command = vocabulary.run
