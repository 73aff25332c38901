"""What a notebook cell calls: figures, exercise checks, printed reports."""
