"""The five subjects of the project, one file each."""
