"""Recordings as sources: windows of waveforms, with labels of frames where there are any."""
