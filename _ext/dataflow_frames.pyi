from typing import final

@final
class FrameStore: ...
