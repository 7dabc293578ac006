"""The Backend Playbook: every module below is a page to read, a notebook to run, a script and an import.

Importing this package installs the import hook (`playbook.kit.hook`), so that importing a playbook runs its
`export` cells only. Inside a notebook it also lets cells that define tables be run again (`playbook.kit.rerun`).
"""

import sys

from playbook.kit import hook

hook.install()

if "IPython" in sys.modules:
    from playbook.kit import rerun

    rerun.install()
