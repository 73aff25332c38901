# All kernels that build, test or run a notebook use this profile (IPYTHONDIR=.ci/ipython).
c = get_config()  # noqa: F821  (IPython provides it)
c.IPKernelApp.log_level = 50  # no start-up warnings: stderr of a notebook stays empty
c.HistoryManager.enabled = False  # no shared sqlite file, so kernels can run at the same time
c.MagicsManager.auto_magic = False  # `ls` is a NameError, as it is in plain Python
c.InteractiveShell.colors = "nocolor"  # tracebacks are read in terminals, logs and files
