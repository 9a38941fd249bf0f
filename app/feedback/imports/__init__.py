"""Files with feedback: how each is recognised and read (pure), and how an import of one runs."""
