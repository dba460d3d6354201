"""The Python clients against one dqlite server: create, insert, read, transaction, error.

Usage: python smoke.py HOST:PORT

Needs Python 3.13 and the package dqlite-client; dqlite-dbapi is tried too when it is installed.
Prints one line per part and ends with status 0, or with an AssertionError. Works on a database of
its own, and on a server that has run it before.
"""

import asyncio
import sys

import dqliteclient

SQLITE_CONSTRAINT_UNIQUE = 2067
SQLITE_ERROR = 1


async def values(conn: dqliteclient.DqliteConnection) -> None:
    await conn.execute("DROP TABLE IF EXISTS t")
    await conn.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT UNIQUE, data BLOB, x REAL)")
    last_id, changed = await conn.execute(
        "INSERT INTO t (name, data, x) VALUES (?, ?, ?)", ["first", b"\x00\xff", 1.5]
    )
    assert (last_id, changed) == (1, 1), (last_id, changed)
    last_id, changed = await conn.execute("INSERT INTO t (name) VALUES ('second'), (NULL)")
    assert (last_id, changed) == (3, 2), (last_id, changed)

    rows = await conn.fetch("SELECT * FROM t ORDER BY id")
    assert rows == [
        {"id": 1, "name": "first", "data": b"\x00\xff", "x": 1.5},
        {"id": 2, "name": "second", "data": None, "x": None},
        {"id": 3, "name": None, "data": None, "x": None},
    ], rows
    assert await conn.fetchval("SELECT name FROM t WHERE id = ?", [2]) == "second"
    assert await conn.fetchall("SELECT id FROM t WHERE id > 99") == []


async def many_rows(conn: dqliteclient.DqliteConnection) -> None:
    """A result of several batches."""
    rows = await conn.fetchall(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
        " SELECT i, 'row ' || i FROM n"
    )
    assert len(rows) == 5000 and rows[-1] == [5000, "row 5000"], rows[-1]


async def transactions(conn: dqliteclient.DqliteConnection) -> None:
    before = await conn.fetchval("SELECT count(*) FROM t")
    async with conn.transaction():
        await conn.execute("INSERT INTO t (name) VALUES ('third')")
        await conn.execute("INSERT INTO t (name) VALUES ('fourth')")
    assert await conn.fetchval("SELECT count(*) FROM t") == before + 2

    try:
        async with conn.transaction():
            await conn.execute("INSERT INTO t (name) VALUES ('fifth')")
            raise RuntimeError("change of mind")
    except RuntimeError:
        pass
    assert await conn.fetchval("SELECT count(*) FROM t") == before + 2


async def errors(conn: dqliteclient.DqliteConnection) -> None:
    for sql, code in [
        ("INSERT INTO t (name) VALUES ('first')", SQLITE_CONSTRAINT_UNIQUE),
        ("SELEC 1", SQLITE_ERROR),
        ("INSERT INTO absent VALUES (1)", SQLITE_ERROR),
    ]:
        try:
            await conn.execute(sql)
        except dqliteclient.OperationalError as error:
            assert error.code == code, (sql, error.code)
        else:
            raise AssertionError(f"{sql} succeeded")
    assert await conn.fetchval("SELECT 1") == 1, "the connection survives errors"


async def client(address: str) -> None:
    conn = await dqliteclient.connect(address, database="python-client")
    try:
        for part in (values, many_rows, transactions, errors):
            await part(conn)
            print(f"dqlite-client: {part.__name__}: ok")
    finally:
        await conn.close()

    pool = await dqliteclient.create_pool([address], database="python-client")
    try:
        async with pool.acquire() as pooled:
            assert await pooled.fetchval("SELECT count(*) FROM t") == 5
        print("dqlite-client: pool (finds the leader): ok")
    finally:
        await pool.close()


def dbapi(address: str) -> None:
    try:
        import dqlitedbapi
    except ImportError:
        print("dqlite-dbapi: not installed")
        return
    conn = dqlitedbapi.connect(address, database="python-dbapi")
    try:
        cursor = conn.cursor()
        cursor.execute("DROP TABLE IF EXISTS t")
        cursor.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT UNIQUE)")
        cursor.execute("INSERT INTO t (name) VALUES (?)", ("first",))
        assert cursor.lastrowid == 1, cursor.lastrowid
        assert cursor.rowcount == 1, cursor.rowcount

        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO t (name) VALUES (?)", ("second",))
        conn.rollback()
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO t (name) VALUES (?)", ("third",))
        conn.commit()
        cursor.execute("SELECT name FROM t ORDER BY id")
        assert [column[0] for column in cursor.description] == ["name"]
        assert [tuple(row) for row in cursor.fetchall()] == [("first",), ("third",)]

        try:
            cursor.execute("INSERT INTO t (name) VALUES ('first')")
        except dqlitedbapi.IntegrityError:
            pass
        else:
            raise AssertionError("a duplicate was accepted")
        print("dqlite-dbapi: ok")
    finally:
        conn.close()


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    asyncio.run(client(sys.argv[1]))
    dbapi(sys.argv[1])


if __name__ == "__main__":
    main()
