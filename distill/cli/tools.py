"""``distill convert`` and ``distill vocabulary``."""

from distill.tools import convert, vocabulary

convert_command = convert.run
vocabulary_command = vocabulary.run
