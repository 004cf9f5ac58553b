"""The reference OPTIMADE server on the loopback: `python optimade_server.py ENTRIES.jsonl PORT PAGE_LIMIT`."""

import sys
from pathlib import Path


def main(entries, port, page_limit):
    import uvicorn
    from optimade.server.config import ServerConfig
    from optimade.server.create_app import create_app

    config = ServerConfig(
        insert_test_data=False,
        insert_from_jsonl=Path(entries).resolve(),
        validate_api_response=False,
        base_url=f"http://127.0.0.1:{port}",
        page_limit=int(page_limit),
    )
    uvicorn.run(create_app(config), host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
