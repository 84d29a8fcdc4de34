"""From what a dataset's site gives to what the catalog wants, one module per dataset."""
