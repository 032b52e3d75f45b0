"""Backups in an S3 store, and cluster keys wrapped by KMS: the real program against services that speak these protocols.

Run by aws.sh. Both services are moto's, over HTTP in this process; MIRA_BIN names the program.
"""

import base64
import json
import logging
import os
import pathlib
import re
import subprocess
import tempfile
import time
import unittest
import urllib.request

import boto3
from moto.server import ThreadedMotoServer

MIRA = os.environ["MIRA_BIN"]
BUCKET = "mira-backups"
PLACE = f"s3://{BUCKET}/of/this/cluster"
# Seconds for a cluster to be ready on a machine that does other things beside.
PATIENCE = 120
MEMORIES = 400


def environment(folder: pathlib.Path) -> dict:
    return {
        "PATH": os.environ["PATH"], "HOME": str(folder), "AWS_ENDPOINT": ENDPOINT, "AWS_ENDPOINT_URL_KMS": ENDPOINT,
        "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }


def service(name: str):
    return boto3.client(name, endpoint_url=ENDPOINT, region_name="us-east-1",
                        aws_access_key_id="test", aws_secret_access_key="test")


class Cluster:
    """`mira dev` in a folder, with a cluster key that others may share."""

    def __init__(self, folder: pathlib.Path, key: str | None = None):
        self.folder = folder
        folder.mkdir(mode=0o700)
        if key is not None:
            file = folder / "cluster.key"
            file.touch(mode=0o600)
            file.write_text(key)
        self.out = open(folder / "out", "w+")
        self.process = subprocess.Popen(
            [MIRA, "dev", "--http", "127.0.0.1:0", "--data", str(folder)],
            stdout=self.out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment(folder),
        )
        deadline = time.monotonic() + PATIENCE
        while "Ctrl-C stops it" not in (said := (folder / "out").read_text()):
            assert self.process.poll() is None and time.monotonic() < deadline, f"the cluster did not start: {said}"
            time.sleep(0.1)
        self.url = re.search(r"^  MCP *(http://.*)/mcp$", said, re.MULTILINE).group(1)
        self.token = (folder / "token").read_text().strip()

    def key(self) -> str:
        return (self.folder / "cluster.key").read_text()

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.out.close()

    def post(self, path: str, body: dict) -> dict:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        reached = environment(self.folder) | {"MIRA_URL": self.url, "MIRA_TOKEN": self.token}
        return subprocess.run([MIRA, *arguments], env=reached, capture_output=True, text=True, timeout=300)

    def answer(self, *arguments: str) -> dict:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return json.loads(done.stdout)

    def contents(self) -> dict:
        done = self.run("export", "--collection", "notes")
        assert done.returncode == 0, done.stderr
        frames = (json.loads(line) for line in done.stdout.splitlines())
        return {frame["id"]: frame for frame in frames}

    def fill(self, numbers: range):
        items = [
            {"content": f"zebra {number}", "vector": [float(number), 1.0, 0.0, 0.0], "collection": "notes"}
            for number in numbers
        ]
        self.post("/mcp/store", {"items": items})


class BackupsInS3(unittest.TestCase):
    def test_a_cluster_comes_back_from_a_bucket(self):
        cluster = Cluster(FOLDER / "first")
        self.addCleanup(cluster.stop)
        missing = cluster.run("admin", "backup", "create", "s3://no-such-bucket/x")
        self.assertEqual(missing.returncode, 1)
        self.assertIn("NoSuchBucket", missing.stderr)

        request = urllib.request.Request(
            cluster.url + "/collections/notes", json.dumps({"dim": 4, "partitions": 3}).encode(), method="PUT",
            headers={"Authorization": f"Bearer {cluster.token}", "Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=60).close()
        cluster.fill(range(MEMORIES))
        first = cluster.answer("admin", "backup", "create", PLACE)
        self.assertEqual((first["base"], first["frames"]), (None, MEMORIES))
        cluster.fill(range(MEMORIES, MEMORIES + 20))
        second = cluster.answer("admin", "backup", "create", PLACE)
        self.assertEqual((second["base"], second["frames"]), (first["backup"], MEMORIES + 20))
        self.assertLess(second["bytes"], first["bytes"] / 3)
        self.assertEqual(len(cluster.answer("admin", "backup", "list", PLACE)), 2)
        self.assertEqual(cluster.answer("admin", "backup", "verify", PLACE)["frames"], MEMORIES + 20)

        # Nothing readable, and nothing believed that was altered.
        store = service("s3")
        names = [item["Key"] for item in store.list_objects_v2(Bucket=BUCKET)["Contents"]]
        self.assertTrue(all(name.startswith("of/this/cluster/") for name in names))
        self.assertFalse(any(name.endswith("/lock") for name in names))
        pieces = {name: store.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in names}
        self.assertFalse(any(b"zebra" in piece for piece in pieces.values()))
        page = max(pieces, key=lambda name: len(pieces[name]))
        store.put_object(Bucket=BUCKET, Key=page, Body=pieces[page][:-1] + bytes([pieces[page][-1] ^ 1]))
        other = Cluster(FOLDER / "second", cluster.key())
        self.addCleanup(other.stop)
        altered = other.run("admin", "restore", PLACE)
        self.assertEqual(altered.returncode, 1)
        self.assertIn("it was altered", altered.stderr)
        self.assertIn(page.rsplit("/", 1)[1], altered.stderr)
        store.put_object(Bucket=BUCKET, Key=page, Body=pieces[page])

        restored = other.answer("admin", "restore", PLACE)
        self.assertEqual((restored["frames"], restored["collections"]), (MEMORIES + 20, ["notes"]))
        self.assertEqual(other.contents(), cluster.contents())


class KeysInKms(unittest.TestCase):
    def keys(self, *arguments: str, **other: str) -> subprocess.CompletedProcess:
        reached = environment(FOLDER) | other
        return subprocess.run([MIRA, "admin", "keys", *arguments], env=reached, capture_output=True, text=True, timeout=60)

    def ids(self, *arguments: str) -> list:
        done = self.keys(*arguments, "--json")
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return json.loads(done.stdout)

    def test_a_cluster_runs_on_a_key_that_only_kms_opens(self):
        kms = service("kms")
        first, second = (kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(2))
        folder = FOLDER / "kms"
        file = str(FOLDER / "kms.key")
        made = self.ids("new", file, "--kms", first)
        blob = re.fullmatch(r"kms (\S+)\n", pathlib.Path(file).read_text()).group(1)
        # It is bound to what it is for.
        blob_bytes = base64.b64decode(blob)
        with self.assertRaises(kms.exceptions.InvalidCiphertextException):
            kms.decrypt(CiphertextBlob=blob_bytes)
        plain = kms.decrypt(CiphertextBlob=blob_bytes, EncryptionContext={"mira": "cluster-key"})["Plaintext"]
        self.assertEqual(len(base64.b64decode(plain)), 32)

        cluster = Cluster(folder, pathlib.Path(file).read_text())
        self.addCleanup(cluster.stop)
        self.assertEqual([keys["held"] for keys in cluster.answer("admin", "keys")["nodes"]], [made] * 3)
        # Into the hands of another key of the service, and the cluster goes over to a new key that it made.
        file = str(folder / "cluster.key")
        self.assertEqual(self.ids("wrap", file, "--kms", second), made)
        new = self.ids("new", file, "--kms", second)
        rotated = cluster.answer("admin", "keys", "rotate", "--cluster")
        self.assertEqual([rotated["to"]], new)
        self.assertEqual(cluster.answer("admin", "shred-status", str(rotated["id"]), "--wait")["state"], "done")

        altered = FOLDER / "altered.key"
        altered.touch(mode=0o600)
        altered.write_text("kms " + base64.b64encode(blob_bytes[:-1] + bytes([blob_bytes[-1] ^ 1])).decode())
        refused = self.keys("show", str(altered))
        self.assertEqual(refused.returncode, 1)
        self.assertIn("InvalidCiphertextException", refused.stderr)
        wrong = self.keys("new", file, "--kms", "no-such-key")
        self.assertIn("NotFoundException", wrong.stderr)
        nobody = self.keys("show", file, AWS_ENDPOINT_URL_KMS="http://127.0.0.1:9")
        self.assertIn("cannot be reached", nobody.stderr)


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    ENDPOINT = "http://{}:{}".format(*server.get_host_and_port())
    service("s3").create_bucket(Bucket=BUCKET)
    with tempfile.TemporaryDirectory(prefix="mira-aws.") as folder:
        FOLDER = pathlib.Path(folder)
        outcome = unittest.main(exit=False)
    server.stop()
    raise SystemExit(not outcome.result.wasSuccessful())
