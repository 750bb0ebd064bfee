"""A small client of Label Studio's REST API; every failure becomes a one-line error. Needs httpx, so it is imported late.

We need a tenth of `label-studio-sdk`, which would pull in OpenCV, NLTK and a code generator, cap numpy, and pin its dependencies.
"""

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import httpx

from alframe.annotator.label_studio.project import NotFound, Unreachable
from alframe.errors import ConfigError, DataError, expect

TOKEN = "LABEL_STUDIO_API_KEY"
"""The environment variable with the token, named as in Label Studio's own SDK. The token is never stored."""
TIMEOUT = httpx.Timeout(60.0, connect=10.0)
PAGE = 250  # tasks per request
ADDRESS = "annotator.url to be an address such as http://localhost:8080"


class TokenAuth(httpx.Auth):
    """Exchanges a personal access token for a five-minute pass whenever needed; a legacy token is sent as it is."""

    requires_response_body = True

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token, self._pass = url, token, ""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._token.count(".") != 2:
            request.headers["Authorization"] = f"Token {self._token}"
            yield request
            return
        for _ in range(2):
            if not self._pass:
                answer = yield httpx.Request("POST", f"{self._url}/api/token/refresh/", json={"refresh": self._token})
                if answer.status_code >= 500:
                    raise httpx.RemoteProtocolError(f"HTTP {answer.status_code}")
                if answer.status_code != 200:
                    return  # httpx then returns this response
                self._pass = str(answer.json()["access"])
            request.headers["Authorization"] = f"Bearer {self._pass}"
            response = yield request
            if response.status_code != 401:
                return
            self._pass = ""


class Client:
    """Label Studio at `url`, as the user whose token is in the environment.

    Raises `ConfigError` for a missing or rejected token, `Unreachable` without a response, `NotFound` for a missing
    resource, and `DataError` with the server's message for a rejected request.
    """

    def __init__(self, url: str) -> None:
        token = os.environ.get(TOKEN, "").strip()
        expect(
            bool(token),
            f"Expected a token of Label Studio in the environment variable {TOKEN}, got none; create one in the browser under "
            f"{url}/user/account/personal-access-token and export {TOKEN}=...",
        )
        self.url = url
        expect(token.isascii(), f"Expected a token in {TOKEN}, got other text; copy the token again.")
        try:
            self._http = httpx.Client(base_url=url, auth=TokenAuth(url, token), timeout=TIMEOUT)
        except httpx.InvalidURL as error:
            raise ConfigError(f"Expected {ADDRESS}, got '{url}' ({error}).") from error

    def get(self, path: str, **params: Any) -> Any:
        return self._call("GET", path, params=params)

    def post(self, path: str, json: Any, **params: Any) -> Any:
        return self._call("POST", path, json=json, params=params)

    def patch(self, path: str, json: Any) -> Any:
        return self._call("PATCH", path, json=json)

    def delete(self, path: str) -> None:
        self._call("DELETE", path)

    def upload(self, path: str, files: Sequence[tuple[str, bytes]], **params: Any) -> Any:
        return self._call("POST", path, files=[(name, (name, content)) for name, content in files], params=params)

    def pages(self, path: str, key: str, **params: Any) -> Iterator[dict[str, Any]]:
        """The items under `key` of all pages."""
        seen, total, page = 0, 1, 1
        while seen < total:
            try:
                answer = self.get(path, page=page, page_size=PAGE, **params)
            except NotFound:
                if page == 1:
                    raise
                return  # fewer than before: something was deleted in between
            yield from answer[key]
            seen, total, page = seen + len(answer[key]), answer.get("total", answer.get("count", 0)), page + 1
            if not answer[key]:
                return

    def close(self) -> None:
        self._http.close()

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TimeoutException as error:
            raise Unreachable(f"no answer within {TIMEOUT.read:.0f} s") from error
        except httpx.UnsupportedProtocol as error:
            raise ConfigError(f"Expected {ADDRESS}, got '{self.url}'.") from error
        except (httpx.TransportError, ValueError, KeyError) as error:  # no or a broken connection, a malformed response
            raise Unreachable(str(error) or type(error).__name__) from error
        if response.status_code >= 500 or response.status_code == 429:
            raise Unreachable(f"HTTP {response.status_code}")
        if response.status_code == 204:
            return None
        try:
            answer = response.json()
        except ValueError:
            raise ConfigError(
                f"Expected Label Studio at {self.url}, got another kind of page (HTTP {response.status_code}, "
                f"{response.headers.get('content-type', 'no type')}); correct annotator.url."
            ) from None
        if response.is_success:
            return answer
        words = _message(answer)
        if response.status_code in (401, 403):
            raise ConfigError(
                f"Expected a token that {self.url} accepts in {TOKEN}, got one that it rejects ({words}): it is wrong, expired or "
                f"revoked, or its user lacks the permission; create a new one under {self.url}/user/account/personal-access-token."
            )
        if response.status_code == 404:
            raise NotFound(words)
        raise DataError(f"Expected {self.url} to accept {method} {path}, got HTTP {response.status_code}: {words}")


def _message(answer: Any) -> str:
    """The server's error message, on one line."""
    if not isinstance(answer, Mapping):
        return str(answer)[:300]
    found = [str(answer.get("detail", ""))]
    for field, problems in (answer.get("validation_errors") or {}).items():
        text = "; ".join(map(str, problems)) if isinstance(problems, list) else str(problems)
        found.append(text if field == "non_field_errors" else f"{field}: {text}")
    return " ".join(" ".join(part.split()) for part in found if part)[:500]
