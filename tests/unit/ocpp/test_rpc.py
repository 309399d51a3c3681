"""Frames in, frames out, and replies matched to calls."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltledger.ocpp.errors import ConversationBusy
from voltledger.ocpp.rpc import (
    BadFrame,
    Call,
    CallError,
    CallResult,
    CallResultError,
    Conversation,
    ErrorCode,
    Ignorable,
    MatchedReply,
    Send,
    UnknownReply,
    Version,
    decode_frame,
    encode_call,
    encode_error,
    encode_result,
    encode_result_error,
    encode_send,
)

V16, V201, V21 = Version.V16, Version.V201, Version.V21


def call(text: str | bytes, version: Version = V16) -> Call:
    frame = decode_frame(text, version)
    assert isinstance(frame, Call), frame
    return frame


def test_a_call_is_read_from_text_and_from_bytes() -> None:
    for data in ('[2,"a7","Heartbeat",{}]', b'[2,"a7","Heartbeat",{}]'):
        frame = call(data)
        assert (frame.message_id, frame.action, bytes(frame.payload)) == ("a7", "Heartbeat", b"{}")


@pytest.mark.parametrize("text", ['[2,"19","Heartbeat",null]', '[2,"19","Heartbeat"]'])
def test_a_null_or_missing_payload_is_an_empty_object(text: str) -> None:
    assert bytes(call(text).payload) == b"{}"


@pytest.mark.parametrize("raw", ["1243", "-1", "1243.50", "1e3"])
def test_a_numeric_message_id_is_echoed_as_it_was(raw: str) -> None:
    frame = call(f'[2,{raw},"Heartbeat",{{}}]')
    assert frame.message_id == raw
    assert encode_result(frame, b"{}") == f"[3,{raw},{{}}]"
    assert encode_error(frame, ErrorCode.INTERNAL_ERROR, "", V16) == f'[4,{raw},"InternalError","",{{}}]'


def test_a_message_type_as_text_and_elements_too_many_are_forgiven() -> None:
    assert call('["2","x","Heartbeat",{},"extra"]').action == "Heartbeat"


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_empty_text_is_ignored(text: str) -> None:
    assert isinstance(decode_frame(text, V16), Ignorable)


@pytest.mark.parametrize(
    ("text", "respond_16", "respond_2"),
    [
        ("{", False, True),
        ("[]", False, True),
        ('{"a":1}', False, True),
        ('[2,null,"Heartbeat",{}]', False, True),
        ('[2,{"a":1},"Heartbeat",{}]', False, True),
        ("[" * 100_000 + "]" * 100_000, False, True),
        ("\x00\x01", False, True),
    ],
)
def test_a_frame_without_a_readable_id_is_answered_in_2x_only(text: str, respond_16: bool, respond_2: bool) -> None:
    old, new = decode_frame(text, V16), decode_frame(text, V201)
    assert isinstance(old, BadFrame)
    assert isinstance(new, BadFrame)
    assert (old.respond, new.respond) == (respond_16, respond_2)
    assert json.loads(encode_error(new, new.code, new.description, V201))[:3] == [
        4,
        "-1",
        "RpcFrameworkError",
    ]


def test_a_call_without_an_action_is_answered_under_its_id() -> None:
    frame = decode_frame('[2,"k1",7,{}]', V16)
    assert isinstance(frame, BadFrame)
    assert frame.respond
    assert json.loads(encode_error(frame, frame.code, "", V16))[1:3] == ["k1", "FormationViolation"]
    assert json.loads(encode_error(frame, frame.code, "", V201))[1:3] == ["k1", "FormatViolation"]


@pytest.mark.parametrize("kind", ["1", "5", "6", "9", "null", '"x"'])
def test_an_unknown_message_type_is_ignored_in_1_6_and_answered_in_2_0_1(kind: str) -> None:
    text = f'[{kind},"k2","StartTransaction",{{}}]'
    assert isinstance(decode_frame(text, V16), Ignorable)
    frame = decode_frame(text, V201)
    assert isinstance(frame, BadFrame)
    assert frame.respond
    assert frame.code is ErrorCode.MESSAGE_TYPE_NOT_SUPPORTED
    assert frame.message_id == "k2"


def test_types_5_and_6_exist_in_2_1() -> None:
    failed = decode_frame('[5,"k3","FormatViolation","no"]', V21)
    sent = decode_frame('[6,"k4","NotifyPeriodicEventStream",{"id":1}]', V21)
    assert isinstance(failed, CallResultError)
    assert failed.code == "FormatViolation"
    assert isinstance(sent, Send)
    assert sent.action == "NotifyPeriodicEventStream"


@pytest.mark.parametrize(
    ("text", "code", "description"),
    [
        ('[4,"i","NotImplemented"]', "NotImplemented", ""),
        ('[4,"i","SecurityError","",{}]', "SecurityError", ""),
        ('[4,"i","OccurenceConstraintViolation","x",null]', "OccurenceConstraintViolation", "x"),
        ('[4,"i","Whatever","' + "d" * 450 + '",{}]', "Whatever", "d" * 450),
        ('[4,"i"]', "GenericError", ""),
        ('[4,"i",7,8]', "GenericError", ""),
    ],
)
def test_a_call_error_may_have_any_code_and_miss_elements(text: str, code: str, description: str) -> None:
    frame = decode_frame(text, V16)
    assert isinstance(frame, CallError)
    assert (frame.code, frame.description, bytes(frame.details)) == (code, description, b"{}")


def test_a_reply_without_an_id_is_never_answered() -> None:
    for text in ("[3]", "[4,null]", '[3,["x"],{}]'):
        frame = decode_frame(text, V201)
        assert isinstance(frame, BadFrame)
        assert not frame.respond


@pytest.mark.parametrize(
    "member",
    ['"note":NaN', '"note":-Infinity', '"note":"\\ud800"', '"note":"a\tb"', '"note":"\ud83d"'],
)
def test_a_fact_survives_json_that_is_bad_in_its_details_only(member: str) -> None:
    frame = call('[2,"s","StopTransaction",{"transactionId":7,"meterStop":1500.50,' + member + "}]")
    payload = json.loads(bytes(frame.payload))
    assert payload["transactionId"] == 7
    assert b"1500.50" in bytes(frame.payload)


def test_bytes_that_are_no_utf8_do_not_lose_the_call() -> None:
    assert call(b'[2,"s","StopTransaction",{"idTag":"\xff\xfe"}]').action == "StopTransaction"
    assert call(b'\xef\xbb\xbf[2,"s","Heartbeat",{}]').action == "Heartbeat"


def test_huge_numbers_and_duplicate_members_are_read() -> None:
    for number in ("9" * 5000, "1e9999999999999999999", "1e-999", "1." + "0" * 5000):
        for odd in ("1", "NaN"):
            assert call('[2,"s","X",{"a":1,"a":2,"n":' + number + ',"o":' + odd + "}]").action == "X"
    assert isinstance(decode_frame("[" + "9" * 5000 + ',"s"]', V21), BadFrame)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=15,
)


@given(st.binary(max_size=200), st.sampled_from(Version))
def test_decode_frame_never_raises_on_bytes(data: bytes, version: Version) -> None:
    decode_frame(data, version)


@given(st.text(st.characters(), max_size=200), st.sampled_from(Version))
def test_decode_frame_never_raises_on_text(data: str, version: Version) -> None:
    decode_frame(data, version)


@given(st.lists(_json, max_size=6), st.integers(0, 7), st.sampled_from(Version))
def test_decode_frame_never_raises_on_json_and_what_can_be_answered_can_be_written(
    parts: list[Any], kind: int, version: Version
) -> None:
    for text in (json.dumps([kind, *parts]), json.dumps(parts, ensure_ascii=False)):
        frame = decode_frame(text, version)
        if isinstance(frame, Call):
            answered = json.loads(encode_result(frame, b"{}"))
            assert answered[0] == 3
        if isinstance(frame, BadFrame) and frame.respond:
            error = json.loads(encode_error(frame, frame.code, frame.description, version))
            assert error[0] == 4


@given(st.text(max_size=60), st.text(max_size=30))
def test_what_is_written_is_read_again(message_id: str, action: str) -> None:
    frame = call(encode_call(message_id, action, b'{"a":1.10}'))
    assert (frame.message_id, frame.action, bytes(frame.payload)) == (message_id, action, b'{"a":1.10}')


def test_frames_are_compact_and_descriptions_are_cut() -> None:
    assert encode_send("m", "A", b"{}") == '[6,"m","A",{}]'
    assert encode_result("m", b'{"a":1}') == '[3,"m",{"a":1}]'
    error = json.loads(encode_error("m", "Odd", "x" * 900, V16, {"a": 1}))
    assert error == [4, "m", "Odd", "x" * 255, {"a": 1}]
    assert json.loads(encode_result_error("m", ErrorCode.FORMAT_VIOLATION, "no"))[0] == 5


@pytest.mark.parametrize(
    ("code", "old", "new"),
    [
        (
            ErrorCode.OCCURRENCE_CONSTRAINT_VIOLATION,
            "OccurenceConstraintViolation",
            "OccurrenceConstraintViolation",
        ),
        (ErrorCode.FORMAT_VIOLATION, "FormationViolation", "FormatViolation"),
        (ErrorCode.NOT_IMPLEMENTED, "NotImplemented", "NotImplemented"),
    ],
)
def test_error_codes_are_spelled_as_the_version_does(code: ErrorCode, old: str, new: str) -> None:
    assert code.spelled(V16) == old
    assert code.spelled(V201) == code.spelled(V21) == new


def result(message_id: str) -> CallResult:
    frame = decode_frame(f'[3,"{message_id}",{{"status":"Accepted"}}]', V16)
    assert isinstance(frame, CallResult)
    return frame


def test_a_reply_ends_the_wait_of_its_call_only() -> None:
    talk = Conversation()
    begun = talk.begin("c1", "Reset", 10.0, 30.0)
    assert list(talk.pending) == [begun]
    assert isinstance(talk.match(result("foreign")), UnknownReply)
    matched = talk.match(result("c1"))
    assert isinstance(matched, MatchedReply)
    assert matched.call is begun
    assert list(talk.pending) == []
    assert talk.match(result("c1")) == UnknownReply(reply=result("c1"))


def test_one_call_at_a_time_unless_more_are_allowed() -> None:
    talk = Conversation()
    talk.begin("c1", "Reset", 0.0, 30.0)
    with pytest.raises(ConversationBusy):
        talk.begin("c2", "Reset", 0.0, 30.0)
    wide = Conversation(limit=2)
    wide.begin("c1", "Reset", 0.0, 30.0)
    wide.begin("c2", "ClearCache", 0.0, 30.0)
    assert not wide.free
    assert [pending.message_id for pending in wide.pending] == ["c1", "c2"]


def test_a_late_answer_is_known_as_late_and_completes_no_newer_call() -> None:
    talk = Conversation()
    talk.begin("c1", "RemoteStartTransaction", 0.0, 30.0)
    assert talk.expired(29.9) == []
    assert [over.message_id for over in talk.expired(30.0)] == ["c1"]
    talk.begin("c2", "Reset", 31.0, 30.0)
    late = talk.match(result("c1"))
    assert isinstance(late, UnknownReply)
    assert (late.late, late.action) == (True, "RemoteStartTransaction")
    assert not talk.free


def test_an_error_without_an_id_fails_the_only_call() -> None:
    for message_id in ("", "-1"):
        talk = Conversation()
        talk.begin("c1", "Reset", 0.0, 30.0)
        frame = decode_frame(f'[4,"{message_id}","FormationViolation","",{{}}]', V16)
        assert isinstance(frame, CallError)
        assert isinstance(talk.match(frame), MatchedReply)


def test_a_connection_that_ends_leaves_its_calls_with_unknown_outcome() -> None:
    talk = Conversation(limit=2, memory=1)
    talk.begin("c1", "Reset", 0.0, 30.0)
    talk.begin("c2", "ClearCache", 0.0, 30.0)
    assert [over.action for over in talk.abandon()] == ["Reset", "ClearCache"]
    assert talk.free
    assert talk.match(result("c1")) == UnknownReply(reply=result("c1"))
