"""Templates of keys: what is accepted gives no two artifacts one key, and the rest is refused with the setting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luma_pipeline.errors import ConfigurationError
from luma_pipeline.media import Artifact, MediaSettingsError, TransferConfig
from luma_pipeline.media.keys import KeyTemplate
from tests.properties.effort import examples

LITERALS = st.text(alphabet="/_-.vraw", max_size=5) | st.sampled_from(
    ["_raw", "_raw_", "raw", "video", "video_raw", "/"]
)
# Names that may be confused with an artifact, and with each other.
TASKS = st.text(alphabet="_-.vraw1/ideo", min_size=1, max_size=12) | st.sampled_from(
    ["raw_1", "1", "_raw1", "raw", "video", "video_raw", "_raw_raw", "a", "a.b", "x" * 200, "raw_" + "x" * 124]
)


@st.composite
def templates(draw: st.DrawFn) -> str:
    first, second = draw(st.permutations(["{task_id}", "{artifact}"]))
    end = draw(st.sampled_from(["", ".{extension}"]))
    return f"{draw(LITERALS)}{first}{draw(LITERALS)}{second}{draw(LITERALS)}{end}"


def accepted(template: str) -> KeyTemplate | None:
    try:
        return KeyTemplate(template, "p")
    except MediaSettingsError:
        return None


@examples(300)
@given(templates(), TASKS, TASKS, st.sampled_from(Artifact), st.sampled_from(Artifact), st.data())
def test_an_accepted_template_never_gives_two_artifacts_one_key(
    text: str, one: str, other: str, artifact: Artifact, another: Artifact, data: st.DataObject
) -> None:
    template = accepted(text)
    if template is None:
        return
    # The other task may be made to look like the rest of the first one's key.
    other = data.draw(st.sampled_from([other, f"raw{one}", f"_raw{one}", f"raw_{one}", f"_raw_{one}", f"{one}video"]))
    for extension in ("mp4", "mov"):
        same_key = template.key(one, artifact, "mp4") == template.key(other, another, extension)
        assert same_key == ((one, artifact, "mp4") == (other, another, extension if template.has_extension else "mp4"))
    assert (template.key_base(one, artifact) == template.key_base(other, another)) == (
        (one, artifact) == (other, another)
    )


@examples(100)
@given(templates(), TASKS, st.sampled_from(Artifact))
def test_an_accepted_template_gives_paths_that_every_tool_reads_alike(text: str, task: str, artifact: Artifact) -> None:
    template = accepted(text)
    if template is None:
        return
    key = template.key(task, artifact, "mp4")
    assert not {"", ".", ".."} & set(key.split("/"))
    assert template.is_ours(key)
    assert len(key.encode()) <= 1024


REFUSED_TEMPLATES = [
    "a//{task_id}/{artifact}",
    "{task_id}//{artifact}.{extension}",
    "/{task_id}/{artifact}",
    "{task_id}/{artifact}/",
    "./{task_id}/{artifact}",
    "a/../{task_id}/{artifact}",
    "{task_id}/./{artifact}",
    "{task_id}/../{artifact}.{extension}",
    "a\0{task_id}/{artifact}",
    "{task_id}/{artifact}\n",
    "{task_id}\t{artifact}",
    "{task_id}/\x7f{artifact}",
    "{task_id}/\x85{artifact}",
    "{task_id}/\u2028{artifact}",
    "{task_id}/\ud800{artifact}",
    "{artifact}_{task_id}",
    "{artifact}{task_id}",
    "{artifact}_{task_id}.{extension}",
    "{artifact}_raw_{task_id}",
    "videos/{artifact}_{task_id}",
    "{task_id:.4}/{artifact}",
    "{task_id:>40}/{artifact}",
    "{task_id:}x{artifact:s}",
    "{task_id!r}/{artifact}",
    "{task_id}/{artifact!s}",
    "{task_id.x}/{artifact}",
    "{task_id[0]}/{artifact}",
    "{task_id.__class__}/{artifact}",
    "{}/{task_id}/{artifact}",
    "{0}/{task_id}/{artifact}",
    "{date}/{task_id}/{artifact}",
    "{task_id}/{task_id}/{artifact}",
    "{task_id}/{artifact}/{artifact}",
    "{task_id}/{extension}/{artifact}.{extension}",
    "{task_id}/{artifact}{extension}",
    "{task_id}/{artifact",
    "{task_id}/artifact}",
    "{artifact}",
    "{task_id}",
    "",
    "x" * 1000 + "/{task_id}/{artifact}",
    "é" * 450 + "/{task_id}/{artifact}",
]


@pytest.mark.parametrize("template", REFUSED_TEMPLATES)
def test_templates_that_cannot_work_are_refused_with_the_settings_name(template: str) -> None:
    with pytest.raises(ValueError, match="LUMA_KEY_TEMPLATE") as caught:
        TransferConfig(bucket="my-videos", key_template=template)
    assert isinstance(caught.value, ConfigurationError)
    assert str(caught.value).isprintable()


REFUSED_PREFIXES = [
    "a//b",
    "//a",
    "a//",
    ".",
    "..",
    "a/../b",
    "./a",
    "a/.",
    "a\0b",
    "a\nb",
    "a/\x1f",
    "\ud800",
    "a" * 1000,
]


@pytest.mark.parametrize("prefix", REFUSED_PREFIXES)
def test_prefixes_that_cannot_work_are_refused_with_the_settings_name(prefix: str) -> None:
    with pytest.raises(ValueError, match="LUMA_S3_PREFIX") as caught:
        TransferConfig(bucket="my-videos", prefix=prefix)
    assert isinstance(caught.value, ConfigurationError)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("template", "prefix", "key"),
    [
        ("{task_id}/{artifact}.{extension}", "luma", "luma/a/video.mp4"),
        ("{task_id}-{artifact}", "luma/", "luma/a-video"),
        ("{artifact}/{task_id}.{extension}", "", "video/a.mp4"),
        ("{artifact}-{task_id}.{extension}", "a/b", "a/b/video-a.mp4"),
        ("{{x}}/{task_id}_{artifact}.{extension}", "Ü ber", "Ü ber/{x}/a_video.mp4"),
    ],
)
def test_templates_that_work(template: str, prefix: str, key: str) -> None:
    assert (
        TransferConfig(bucket="my-videos", prefix=prefix, key_template=template).template.key(
            "a", Artifact.VIDEO, "mp4"
        )
        == key
    )


@pytest.mark.parametrize(
    ("task_id", "segment"),
    [
        ("abc", "abc"),
        ("_a.b-c", "_a.b-c"),
        ("x" * 128, "x" * 128),
        ("x" * 129, "x" * 40 + "~0ec9eb33e74510bcdd1f2ea55206e82f21649c5c2becbf2b433eb475b34c01bd"),
        ("a..b", "a-b~f62b42414c514fa689d3e087ba397c602a4ba2c897f0ac2cb32cf770c3442bf2"),
        ("a.", "a~5ab640fad553cbf927dc96b8e7878a9844b2fa79b7a4f5c515e186970ec53027"),
        ("-a", "a~c274891790345c56cef3b53c026bdc48150948fa60c56306073d6fea7766ad6a"),
        ("A/b c", "A-b-c~4380c81f00096d69189ac6f23346b7e41c38cf98bd6604acee9e42c1463f915f"),
        ("/lead/trail/", "lead-trail~06b38a1de5a2580f169c9a0b768ecf15616ae8205ff2efef87f2994171bc3aee"),
        ("X/X", "X-X~30719a12e9f6aff8fef9c144f23557e063e0483da1965f9220df7111f61d6f8e"),
        ("\u00e9\u00e9\u00e9", "~355b7226e20cb564774ef99442e77ac003100624b42b5a92944f0dad75b126b0"),
        ("\ud800", "~91a681b998555fb475479817b126c94e57e52011fa1842c5d188795a4a05226b"),
    ],
)
def test_the_key_of_a_task_is_the_same_for_ever(task_id: str, segment: str) -> None:
    # An object under another key is copied again, and the old one is an orphan.
    assert KeyTemplate().key(task_id, Artifact.VIDEO, "mp4") == f"{segment}/video.mp4"


def test_the_base_of_a_key_is_read_out_of_keys_of_the_template_alone() -> None:
    with_extension, without = KeyTemplate("{task_id}/{artifact}.{extension}"), KeyTemplate("{task_id}/{artifact}")
    assert with_extension.key_base_of("a.mp4/video.mp4") == "a.mp4/video."
    assert with_extension.key_base_of("a/video.mp4.tmp") is None
    assert with_extension.key_base_of("a/video") is None
    assert without.key_base_of("a/video.tmp") == "a/video.tmp"


def test_a_template_may_give_keys_of_1024_bytes_and_no_longer_ones() -> None:
    def longest(literal: str) -> int:
        template = KeyTemplate(literal + "{task_id}/{artifact}.{extension}", "p")
        ids = ("x" * 128, "/" * 300, "é" * 300, "a/b" * 100)
        keys = [template.key(each, artifact, "webm") for each in ids for artifact in Artifact]
        return max(len(key) for key in keys)

    spare = 1024 - longest("")
    assert longest("a" * spare) == 1024
    with pytest.raises(MediaSettingsError, match="1024 bytes"):
        KeyTemplate("a" * (spare + 1) + "{task_id}/{artifact}.{extension}", "p")


@pytest.mark.parametrize(
    ("prefix", "kept"), [("", ""), ("/", ""), ("a", "a/"), ("/a", "a/"), ("a/", "a/"), ("/a/b/", "a/b/")]
)
def test_a_slash_around_a_prefix_is_no_part_of_the_keys(prefix: str, kept: str) -> None:
    assert KeyTemplate(prefix=prefix).prefix == kept
    assert KeyTemplate(prefix=prefix).key("a", Artifact.VIDEO, "mp4") == f"{kept}a/video.mp4"
