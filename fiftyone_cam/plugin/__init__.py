"""The App's layer: forms in, one call of the SDK, triggers out.

To add an operator or a panel: a module in ``operators/`` or ``panels/``, its class in ``registry.py``, its name in
``fiftyone.yml``. Nothing that runs while a form is drawn may import torch or count a big collection: it runs on the
server's event loop, at every keystroke.
"""
