"""Do with a data server what applications do, by its real client, and write what came of it as JSON.

ask_data.py mysql HOST [PORT]           a table, a transaction, a large value
ask_data.py mysql-hold HOST COUNT [S]   COUNT connections at once: how many were let in, and what the others heard
ask_data.py redis HOST                  keys, a pipeline, a transaction, a subscription
ask_data.py redis-keys HOST COUNT       writes COUNT keys and reads them again
ask_data.py redis-refused HOST          what is heard for commands that are about a connection, not a key
ask_data.py mongo HOST                  documents, an index, an aggregation
ask_data.py mongo-greeting HOST         what older drivers say first, an OP_QUERY
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from typing import Any

LARGE = 8 * 1024 * 1024
SECONDS = 10


def mysql(host: str, port: str = "3306") -> dict[str, Any]:
    import pymysql

    started = time.monotonic()
    with pymysql.connect(
        host=host, port=int(port), user="root", connect_timeout=SECONDS, read_timeout=30, max_allowed_packet=64 << 20
    ) as connection:
        connected = time.monotonic() - started
        cursor = connection.cursor()
        cursor.execute("SELECT VERSION(), USER()")
        version, user = cursor.fetchone() or ("", "")
        cursor.execute("DROP DATABASE IF EXISTS shop")
        cursor.execute("CREATE DATABASE shop")
        cursor.execute("CREATE TABLE shop.ratings (id INT PRIMARY KEY, stars INT, note LONGBLOB) ENGINE=InnoDB")
        cursor.executemany("INSERT INTO shop.ratings VALUES (%s, %s, '')", [(i, i % 5) for i in range(500)])
        connection.commit()
        cursor.execute("UPDATE shop.ratings SET stars = 5")
        connection.rollback()
        cursor.execute("SELECT COUNT(*), SUM(stars) FROM shop.ratings")
        count, total = cursor.fetchone() or (0, 0)
        cursor.execute("UPDATE shop.ratings SET note = %s WHERE id = 1", (b"x" * LARGE,))
        connection.commit()
        cursor.execute("SELECT note FROM shop.ratings WHERE id = 1")
        (note,) = cursor.fetchone() or (b"",)
    return {
        "version": version,
        "user": user,
        "count": count,
        "total": int(total),
        "large": len(note) == LARGE and set(note) == {ord("x")},
        "connect_seconds": connected,
    }


def mysql_hold(host: str, count: str, seconds: str = "10") -> dict[str, Any]:
    import pymysql

    held, refused = [], []
    for _ in range(int(count)):
        try:
            held.append(
                pymysql.connect(host=host, user="root", connect_timeout=int(seconds), read_timeout=int(seconds))
            )
        except pymysql.MySQLError as error:
            refused.append(str(error))
    alive = 0
    for connection in held:
        with connection.cursor() as cursor:
            alive += cursor.execute("SELECT 1")
        connection.close()
    return {"held": len(held), "alive": alive, "refused": refused}


def _redis(host: str) -> Any:
    import redis

    return redis.Redis(host=host, socket_timeout=SECONDS, decode_responses=True, protocol=2)


def redis_session(host: str) -> dict[str, Any]:
    with _redis(host) as client:
        client.flushall()
        client.set("greeting", "hello")
        pipe = client.pipeline(transaction=False)
        for number in range(200):
            pipe.incr(f"count:{number % 10}")
        pipe.execute()
        with client.pipeline(transaction=True) as together:
            together.set("a", 1).incr("a").get("a")
            transaction = together.execute()
        heard = client.pubsub()
        heard.subscribe("news")
        first = heard.get_message(timeout=SECONDS)
        client.publish("news", "sails up")
        second = heard.get_message(timeout=SECONDS)
        heard.close()
        client.set("large", "x" * LARGE)
        return {
            "greeting": client.get("greeting"),
            "counts": [client.get(f"count:{number}") for number in range(10)],
            "transaction": transaction,
            "heard": [(first or {}).get("type"), (second or {}).get("data")],
            "large": len(client.get("large")) == LARGE,
            "server": client.info("server")["redis_version"],
        }


def redis_keys(host: str, count: str) -> dict[str, Any]:
    with _redis(host) as client:
        for number in range(int(count)):
            client.set(f"key:{number}", number)
        names = [f"key:{number}" for number in range(int(count))]
        return {"ping": client.ping(), "read": client.mget(names) == [str(number) for number in range(int(count))]}


def redis_refused(host: str) -> dict[str, Any]:
    import redis

    heard = {}
    with _redis(host) as client:
        for words in (["SUBSCRIBE", "news"], ["HELLO", "3"], ["GET", "key:1"]):
            try:
                heard[words[0]] = str(client.execute_command(*words))
            except redis.RedisError as error:
                heard[words[0]] = f"{type(error).__name__}: {error}"
    return heard


def mongo(host: str) -> dict[str, Any]:
    import pymongo

    with pymongo.MongoClient(host, serverSelectionTimeoutMS=SECONDS * 1000, directConnection=True) as client:
        ratings = client.shop.ratings
        ratings.drop()
        ratings.insert_many([{"_id": number, "stars": number % 5} for number in range(500)])
        ratings.create_index("stars")
        ratings.update_one({"_id": 7}, {"$set": {"note": "x" * (1 << 20)}})
        ratings.delete_many({"stars": 0})
        found = list(ratings.aggregate([{"$match": {"stars": 3}}, {"$count": "n"}]))
        return {
            "count": ratings.count_documents({}),
            "threes": found[0]["n"],
            "large": len((ratings.find_one({"_id": 7}) or {}).get("note", "")),
            "listed": len(list(ratings.find().batch_size(50))),
        }


def mongo_greeting(host: str) -> dict[str, Any]:
    import bson

    # OP_QUERY: flags 0, collection, skip 0, return 1, document. OP_REPLY: 20 bytes of its own before the document.
    body = struct.pack("<i", 0) + b"admin.$cmd\0" + struct.pack("<ii", 0, 1) + bson.encode({"hello": 1})
    with socket.create_connection((host, 27017), timeout=SECONDS) as sock:
        sock.sendall(struct.pack("<iiii", 16 + len(body), 1, 0, 2004) + body)
        stream = sock.makefile("rb")
        length, _, _, code = struct.unpack("<iiii", stream.read(16))
        assert code == 1, code
        return {"ok": bson.decode(stream.read(length - 16)[20:])["ok"]}


ACTIONS = {
    "mysql": mysql,
    "mysql-hold": mysql_hold,
    "redis": redis_session,
    "redis-keys": redis_keys,
    "redis-refused": redis_refused,
    "mongo": mongo,
    "mongo-greeting": mongo_greeting,
}


def main() -> None:
    try:
        answer: Any = ACTIONS[sys.argv[1]](*sys.argv[2:])
    except Exception as error:  # what went wrong is the answer
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
