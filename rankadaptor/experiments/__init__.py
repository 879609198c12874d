"""Which results each table, figure and page needs: what is planned, run, and read back."""
