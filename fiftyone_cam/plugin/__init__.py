"""The App's layer: forms in, one call of the SDK, triggers out.

To add an operator, write a child of ``operators/base.py: CamOperator`` in ``operators/``; a panel goes to ``panels/``.
Then add the class to ``registry.py`` and its name to ``fiftyone.yml``. While a form is drawn, nothing may import
PyTorch or count a big collection: forms are drawn on the server's event loop, at every keystroke.
"""
