"""Where an exception comes from."""


def raised_in(error: BaseException) -> str:
    """Name of the module whose code raised an exception."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return str(traceback.tb_frame.f_globals.get("__name__", "")) if traceback else ""
