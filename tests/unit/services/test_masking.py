"""No spelling of a message gets a station's password into the record."""

from __future__ import annotations

import json

import pytest

from voltledger.gateway.masking import mask

SECRET = "hunter2-hunter2"


def _configuration(key: str) -> str:
    return json.dumps({"key": key, "value": SECRET})


@pytest.mark.parametrize(
    ("action", "payload"),
    [
        ("ChangeConfiguration", _configuration("AuthorizationKey")),
        ("ChangeConfiguration", _configuration("authorizationKEY")),
        ("ChangeConfiguration", _configuration(" AuthorizationKey ")),
        ("ChangeConfiguration", _configuration("AuthorizationKey").replace("Auth", "\\u0041uth")),
        ("ChangeConfiguration", _configuration("AuthorizationKey").replace('"value"', '"\\u0076alue"')),
        ("ChangeConfiguration", _configuration("AuthorizationKey").replace(SECRET, f'{SECRET}\\"more')),
        ("ChangeConfiguration", f'{{"value":"{SECRET}","key":"AuthorizationKey"}}'),
        ("ChangeConfiguration", f'{{"Key":"AuthorizationKey","Value":"{SECRET}"}}'),
        ("ChangeConfiguration", f'{{"key":"X","key":"AuthorizationKey","value":"{SECRET}"}}'),
        ("ChangeConfiguration", f'{{"key":"AuthorizationKey","key":"X","value":"{SECRET}"}}'),
        ("ChangeConfiguration", f'{{"key":"AuthorizationKey","value":"{SECRET}"'),
        ("ChangeConfiguration", f'{{"key":"AuthorizationKey","value":["{SECRET}"],"n":NaN}}'),
        ("ChangeConfiguration", f'{{"key":"AuthorizationKey","value":"{SECRET}\\ud800"}}'),
        ("ChangeConfiguration", '{"key":"AuthorizationKey","x":' + "[" * 100_000 + f'"{SECRET}"'),
        ("ChangeConfiguration", _configuration("VendorFtpPassword")),
        (
            "GetConfiguration",
            f'{{"configurationKey":[{{"key":"AUTHORIZATIONKEY","readonly":true,"value":"{SECRET}"}}]}}',
        ),
        (
            "SetVariables",
            json.dumps(
                {
                    "setVariableData": [
                        {
                            "attributeValue": SECRET,
                            "component": {"name": "SecurityCtrlr"},
                            "variable": {"name": "basicauthpassword"},
                        }
                    ]
                }
            ),
        ),
        ("SetNetworkProfile", f'{{"connectionData":{{"basicAuthPassword":"{SECRET}"}}}}'),
    ],
)
def test_a_password_is_masked_however_it_is_written(action: str, payload: str) -> None:
    masked = mask(action, payload)
    assert SECRET not in masked
    json.loads(masked)


def test_only_the_password_is_masked() -> None:
    both = (
        '{"setVariableData":[{"attributeValue":"60","variable":{"name":"HeartbeatInterval"}},'
        '{"attributeValue":"x","variable":{"name":"BasicAuthPassword"}}],"n":0.10}'
    )
    assert json.loads(mask("SetVariables", both)) == {
        "setVariableData": [
            {"attributeValue": "60", "variable": {"name": "HeartbeatInterval"}},
            {"attributeValue": "***", "variable": {"name": "BasicAuthPassword"}},
        ],
        "n": 0.10,
    }
    assert '"n":0.10' in mask("SetVariables", both)


@pytest.mark.parametrize(
    ("action", "payload"),
    [
        ("ChangeConfiguration", '{ "key": "HeartbeatInterval", "value": "60" }'),
        ("ChangeConfiguration", '{"key":"\\u0041nything","value":"60"}'),
        ("StatusNotification", '{"info":"wrong password","status":"Faulted"}'),
        ("DataTransfer", '{"vendorId":"x","data":"AuthorizationKey"}'),
        ("MeterValues", '{"connectorId":1,"meterValue":[]}'),
    ],
)
def test_what_holds_no_password_stays_as_it_was_written(action: str, payload: str) -> None:
    assert mask(action, payload) == payload
