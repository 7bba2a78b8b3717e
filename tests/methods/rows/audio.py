"""Methods of audio."""

from __future__ import annotations

from ml_collections import ConfigDict

from tests.methods.rows.images import QUICK
from tests.methods.rows.row import Row

CPC_AUDIO = {
    **QUICK,
    "data.options": ConfigDict(dict(num_generated=16, num_speakers=4, window=3_200)),
    "model.channels": 8,
    "model.context_dim": 8,
    "method.num_steps": 3,
}
ROWS = {
    "cpc-audio": Row("cpc_audio.py:speech", CPC_AUDIO, embeds=False),
    "cpc-audio-same": Row(
        "cpc_audio.py:speech",
        {
            **CPC_AUDIO,
            "method.negatives": "same_excluding",
            "model.norm": "none",
            "model.padded": False,
        },
        embeds=False,
        slow=True,
    ),
    "supervised-frames": Row(
        "supervised.py:speech",
        {name: value for name, value in CPC_AUDIO.items() if name != "method.num_steps"},
        embeds=False,
        slow=True,
    ),
}
