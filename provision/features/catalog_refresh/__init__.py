"""Changes of the catalog: new releases of the user's package index as rows, and the check of all rows."""
