"""Recovery: rank allocations as adapters, the methods that train them (`methods`), and the training loop."""

import importlib
import pkgutil

from rankadaptor.recovery import methods

for _module in pkgutil.iter_modules(methods.__path__, f"{methods.__name__}."):
    importlib.import_module(_module.name)  # registers its method
