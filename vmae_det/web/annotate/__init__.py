"""`vmae-det annotate`: a page on which people annotate, review and correct a detection dataset.

A video's annotations are a `Document`. `edits` computes what an edit changes, `store` keeps it on disk, and
`app` is the HTTP interface of the page.
"""
