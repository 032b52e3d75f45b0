//! Backups with the real program: made while frames change and nodes die, checked, brought into clusters of another size,
//! and worth nothing when a piece is altered or the key is gone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use mira_chaos_tests::cluster::{Cluster, Shape};
use mira_chaos_tests::process::Program;
use mira_crypto::ClusterKey;
use mira_testing::eventually;
use serde_json::{Value, json};

const OWNER_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const PATIENCE: Duration = Duration::from_secs(120);

fn command(cluster: &Cluster, arguments: &[&str]) -> Command {
    let (mut command, _) = Program::under_test().command("backup", cluster.folder());
    command.args(arguments).env("MIRA_URL", cluster.router_url(0)).env("MIRA_TOKEN", cluster.token());
    command
}

/// Runs the program against a cluster, off this thread so that what the test does meanwhile goes on.
async fn mira(cluster: &Cluster, arguments: &[&str]) -> Output {
    let mut command = command(cluster, arguments);
    tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("it ends")
}

/// Runs it and reads its JSON.
async fn answer(cluster: &Cluster, arguments: &[&str]) -> Value {
    let output = mira(cluster, &[arguments, &["--json", "--timeout", "60s"]].concat()).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}\n{}", cluster.logs());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Runs it where it must fail, and says what it said.
async fn refusal(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = mira(cluster, &[arguments, &["--timeout", "20s"]].concat()).await;
    assert!(!output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn vector(seed: u64) -> Value {
    json!((0..8).map(|axis| (seed as f32 + axis as f32).cos()).collect::<Vec<f32>>())
}

async fn fill(cluster: &Cluster, collection: &str, numbers: std::ops::Range<u64>, word: &str) {
    let client = cluster.client(0);
    for numbers in numbers.collect::<Vec<_>>().chunks(100) {
        let item = |&number: &u64| {
            json!({
                "content": format!("{word} {number}"), "id": format!("01999999-0000-7000-8000-{number:012}"),
                "collection": collection, "vector": vector(number), "session": format!("s{}", number % 7),
                "metadata": { "number": number }, "replace": true,
            })
        };
        let reply = client.call("store", &json!({ "items": numbers.iter().map(item).collect::<Vec<_>>() })).await;
        let reply = reply.expect("stored");
        assert!(reply["items"].as_array().unwrap().iter().all(|item| item["version"].is_u64()), "{reply}");
    }
}

/// Stores a record that its source names.
async fn store_named(cluster: &Cluster, collection: &str) -> Value {
    let record = json!({ "content": "x", "source_key": "a", "vector": vector(1), "collection": collection });
    cluster.client(0).call("store", &record).await.expect("stored")
}

/// Everything in a collection, by id, without what a restore may change: nothing.
async fn contents(cluster: &Cluster, collection: &str) -> BTreeMap<String, Value> {
    let output = mira(cluster, &["export", "--collection", collection, "--timeout", "60s"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    let frames = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    frames.map(|frame| (frame["id"].as_str().expect("an id").to_owned(), frame)).collect()
}

async fn private(cluster: &Cluster, request: reqwest::RequestBuilder) -> Value {
    let reply = request.bearer_auth(cluster.token()).header("x-mira-owner-key", OWNER_KEY).send().await.expect("sent");
    let (status, text) = (reply.status(), reply.text().await.expect("text"));
    assert!(status.is_success(), "{text}");
    serde_json::from_str(&text).expect("JSON")
}

async fn start(nodes: u8, shards: u32, key: &ClusterKey) -> Cluster {
    let folder = tempfile::tempdir().expect("a folder");
    Cluster::start_with(Shape { nodes, shards, ..Shape::default() }, folder, key).await
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("backups");
    (folder, place)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        match entry.path().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

/// Runs a restore until something is back, and kills it and the node.
async fn kill_half_way(cluster: &mut Cluster, restore: &[&str]) {
    let mut running = command(cluster, restore);
    let mut running = running.stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("it runs");
    eventually("something comes back", PATIENCE, async || {
        let status = cluster.client(0).call("status", &json!({})).await.expect("a status");
        status["frames"].as_u64().unwrap() > 0
    })
    .await;
    running.kill().expect("killed");
    running.wait().expect("ended");
    cluster.kill_node(0).await;
    cluster.restart_node(0);
    cluster.wait_ready(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_comes_back_from_its_backups_in_another_size() {
    let key = ClusterKey::generate(&mut mira_crypto::os_rng());
    let mut cluster = start(3, 4, &key).await;
    let client = cluster.client(0);
    client.put_collection("notes", &json!({ "dim": 8, "partitions": 4 })).await.expect("a collection");
    client.put_collection("more", &json!({ "dim": 8, "partitions": 1, "ttl_seconds": 86_400 })).await.expect("made");
    fill(&cluster, "notes", 0..1_500, "zebra-notes").await;
    fill(&cluster, "more", 0..50, "zebra-more").await;
    let http = reqwest::Client::new();
    let secret = json!({
        "content": "zebra-secret", "private": true, "collection": "notes", "vector": vector(9_000),
        "id": "01999999-0000-7000-8000-999999999999",
    });
    private(&cluster, http.post(format!("{}/mcp/store", cluster.router_url(0))).json(&secret)).await;
    let (_folder, place) = place();
    let place = place.to_str().expect("UTF-8");
    assert!(refusal(&cluster, &["admin", "backup", "verify", place]).await.contains("no repository"));
    assert!(refusal(&cluster, &["admin", "restore", place]).await.contains("no repository"));

    let first = answer(&cluster, &["admin", "backup", "create", place]).await;
    assert_eq!((&first["base"], &first["frames"]), (&Value::Null, &json!(1_551)));
    // What has changed, gone and come since is in the second, and nothing else; what has gone rests in the bin.
    fill(&cluster, "notes", 100..120, "zebra-anew").await;
    fill(&cluster, "notes", 5_000..5_010, "zebra-new").await;
    let gone = ["01999999-0000-7000-8000-000000000007", "01999999-0000-7000-8000-000000000110"];
    client.call("forget", &json!({ "ids": gone, "collection": "notes" })).await.expect("forgotten");
    let second = answer(&cluster, &["admin", "backup", "create", place]).await;
    assert_eq!((&second["base"], &second["frames"]), (&first["backup"], &json!(1_561)));
    let size = |created: &Value| created["bytes"].as_u64().unwrap();
    assert!(size(&second) * 5 < size(&first), "{second} {first}");
    let verified = answer(&cluster, &["admin", "backup", "verify", place]).await;
    assert_eq!((&verified["frames"], &verified["frames_shredded"]), (&json!(1_561), &json!(0)));

    // A third one, while a node dies.
    fill(&cluster, "notes", 6_000..7_000, "zebra-late").await;
    let mut making = command(&cluster, &["admin", "backup", "create", place, "--full", "--json"]);
    let making = making.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    tokio::time::sleep(Duration::from_millis(40)).await;
    cluster.kill_node(1).await;
    let made = tokio::task::spawn_blocking(|| making.wait_with_output().expect("it ends")).await.expect("ended");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let third: Value = serde_json::from_slice(&made.stdout).expect("JSON");
    assert_eq!((&third["base"], &third["frames"]), (&Value::Null, &json!(2_561)));
    fill(&cluster, "more", 100..110, "zebra-after").await;
    // A file too: its memory, four chunks, and the upload, which is remembered for a while.
    let file = Path::new(place).with_file_name("recording.bin");
    let bytes: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).take(3_500_000).collect();
    std::fs::write(&file, &bytes).expect("written");
    let file_name = file.to_str().expect("UTF-8");
    let stored = answer(&cluster, &["store", "--collection", "more", "--file", file_name]).await;
    let file_id = stored["id"].as_str().expect("an id").to_owned();
    let fourth = answer(&cluster, &["admin", "backup", "create", place]).await;
    assert_eq!(fourth["base"], third["backup"]);
    cluster.restart_node(1);
    let listed = answer_local(&cluster, &["admin", "backup", "list", place, "--json"]).await;
    assert_eq!(listed.as_array().unwrap().len(), 4);
    let places = answer(&cluster, &["admin", "backup", "places"]).await["repositories"].take();
    assert_eq!((&places[0]["place"], places.as_array().unwrap().len()), (&json!(place), 1));

    // Nothing in it can be read, and a cluster that holds something does not take it.
    for file in files(Path::new(place)) {
        let bytes = std::fs::read(&file).expect("readable");
        assert!(!bytes.windows(5).any(|window| window == b"zebra"), "{}", file.display());
    }
    assert!(refusal(&cluster, &["admin", "restore", place]).await.contains("not empty"));

    let expected = (contents(&cluster, "notes").await, contents(&cluster, "more").await);
    assert_eq!((expected.0.len(), expected.1.len()), (2_508, 60));
    for (nodes, shards) in [(1, 2), (3, 8)] {
        let other = start(nodes, shards, &key).await;
        let restored = answer(&other, &["admin", "restore", place]).await;
        assert_eq!((&restored["frames"], &restored["collections"]), (&json!(2_577), &json!(["more", "notes"])));
        assert_eq!(contents(&other, "notes").await, expected.0, "{nodes} nodes");
        assert_eq!(contents(&other, "more").await, expected.1);
        let search = json!({ "vector": vector(105), "k": 1, "collection": "notes" });
        let found = other.client(0).call("search", &search).await.expect("searched");
        assert_eq!(found["hits"][0]["content"], "zebra-anew 105");
        let recall = json!({ "id": "01999999-0000-7000-8000-999999999999", "collection": "notes" });
        let url = format!("{}/mcp/recall", other.router_url(0));
        let mine = private(&other, http.post(url).json(&recall)).await;
        assert_eq!(mine["frames"][0]["content"], "zebra-secret");
        let output = format!("{file_name}.{nodes}");
        answer(&other, &["recall", "--collection", "more", &file_id, "--output", &output]).await;
        assert!(std::fs::read(&output).expect("it is there") == bytes, "the file is another one");
        // So does what was replaced, and what was forgotten can be brought back.
        answer(&other, &["restore-memory", "--collection", "notes", gone[0], gone[1]]).await;
        let back = answer(&other, &["recall", "--collection", "notes", gone[0], gone[1]]).await;
        assert_eq!(back["frames"][0]["content"], "zebra-notes 7");
        assert_eq!(back["frames"][1]["content"], "zebra-anew 110");
        let earlier = ["recall", "--collection", "notes", "01999999-0000-7000-8000-000000000105", "--version", "1"];
        assert_eq!(answer(&other, &earlier).await["frames"][0]["content"], "zebra-notes 105");
        fill(&other, "notes", 0..10, "zebra-goes-on").await;
        // Gone for good this time; it had three versions.
        let for_good = json!({ "id": gone[1], "now": true, "collection": "notes" });
        other.client(0).call("forget", &for_good).await.expect("forgotten");
        let again = json!({ "id": gone[1], "content": "zebra-again", "collection": "notes", "vector": vector(110) });
        let stored = other.client(0).call("store", &again).await.expect("stored");
        assert!(stored["version"].as_u64() > Some(3), "{stored}");
    }
    // An older state is there too.
    let other = start(1, 4, &key).await;
    let earlier = answer(&other, &["admin", "restore", place, "--backup", second["backup"].as_str().unwrap()]).await;
    assert_eq!(earlier["frames"], 1_561);
    assert_eq!(contents(&other, "notes").await.len(), 1_508);
}

/// Waits until no node has the keys of an erasure any more, but a place of backups still does.
async fn until_only_places_are_waited_for(cluster: &Cluster, number: &str, place: &str) {
    let status = eventually("no node has the keys", PATIENCE, async || {
        let status = answer(cluster, &["admin", "shred-status", number]).await;
        assert_ne!(status["state"], "done");
        (status["state"] == "purging" && status.get("waits_for_nodes").is_none()).then_some(status)
    });
    assert_eq!(status.await["waits_for_repositories"], json!([place]));
}

/// A verb that asks no cluster.
async fn answer_local(cluster: &Cluster, arguments: &[&str]) -> Value {
    let output = mira(cluster, arguments).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Whether a piece is needed only to recovery a shard forward.
fn is_of_log(name: &str) -> bool {
    name.ends_with("-start") || name.contains("-log-")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_not_whole_or_not_ours_changes_nothing() {
    let key = ClusterKey::generate(&mut mira_crypto::os_rng());
    let cluster = start(1, 2, &key).await;
    cluster.client(0).put_collection("notes", &json!({ "dim": 8, "partitions": 2 })).await.expect("a collection");
    fill(&cluster, "notes", 0..300, "zebra").await;
    let (_folder, place) = place();
    answer(&cluster, &["admin", "backup", "create", place.to_str().unwrap()]).await;
    let other = start(1, 3, &key).await;
    let strange = start(1, 2, &ClusterKey::generate(&mut mira_crypto::os_rng())).await;
    let place_text = place.to_str().expect("UTF-8");
    let refused = refusal(&strange, &["admin", "restore", place_text]).await;
    assert!(refused.contains("does not hold") && refused.contains("permission_denied"), "{refused}");

    for file in files(&place) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let whole = std::fs::read(&file).expect("readable");
        let mut altered = whole.clone();
        altered[whole.len() / 2] ^= 1;
        for wrong in [altered, whole[..whole.len() - 1].to_vec()] {
            // The last line break of a manifest says nothing.
            if name == "manifest" && wrong.len() < whole.len() {
                continue;
            }
            std::fs::write(&file, &wrong).expect("written");
            let refused = refusal(&other, &["admin", "backup", "verify", place_text]).await;
            assert!(!refused.contains("internal"), "{name}: {refused}");
            // Who wants the backup itself needs no log.
            if !is_of_log(&name) {
                let refused = refusal(&other, &["admin", "restore", place_text]).await;
                assert!(!refused.contains("internal"), "{name}: {refused}");
            }
        }
        if name != "repository.json" {
            std::fs::remove_file(&file).expect("removed");
            let verb = if is_of_log(&name) { &["admin", "backup", "verify"][..] } else { &["admin", "restore"] };
            refusal(&other, &[verb, &[place_text]].concat()).await;
        }
        std::fs::write(&file, &whole).expect("written");
    }
    // After all that the cluster is as it was, and takes the whole one.
    let restored = answer(&other, &["admin", "restore", place_text]).await;
    assert_eq!(restored["frames"], 300);
    assert_eq!(contents(&other, "notes").await, contents(&cluster, "notes").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_ends_the_backups_before_it_and_no_others() {
    let key = ClusterKey::generate(&mut mira_crypto::os_rng());
    let cluster = start(1, 2, &key).await;
    for name in ["rotates", "stays"] {
        let settings = json!({ "dim": 8, "partitions": 2 });
        cluster.client(0).put_collection(name, &settings).await.expect("a collection");
        fill(&cluster, name, 0..150, name).await;
    }
    let named = store_named(&cluster, "rotates").await;
    let (_folder, place) = place();
    let place = place.to_str().expect("UTF-8");
    let first = answer(&cluster, &["admin", "backup", "create", place]).await;
    // While frames are sealed anew no backup is made: it would keep some under the key that is about to end.
    answer(&cluster, &["admin", "nodes", "pause"]).await;
    let rotation = answer(&cluster, &["admin", "keys", "rotate", "--collection", "rotates", "--no-wait"]).await;
    let number = rotation["id"].to_string();
    eventually("the rotation begins", PATIENCE, async || {
        answer(&cluster, &["admin", "shred-status", &number]).await["state"] == "resealing"
    })
    .await;
    assert!(refusal(&cluster, &["admin", "backup", "create", place]).await.contains("being rotated"));
    answer(&cluster, &["admin", "nodes", "resume"]).await;
    // The old key is still in the place of backups, and its end waits for that.
    until_only_places_are_waited_for(&cluster, &number, place).await;
    let second = answer(&cluster, &["admin", "backup", "create", place]).await;
    assert_eq!((&second["base"], &second["frames"]), (&first["backup"], &json!(301)));
    answer(&cluster, &["admin", "shred-status", &number, "--wait"]).await;
    let verified = answer(&cluster, &["admin", "backup", "verify", place]).await;
    assert_eq!((&verified["frames"], &verified["frames_shredded"]), (&json!(301), &json!(0)));
    let before = first["backup"].as_str().unwrap();
    let before = answer(&cluster, &["admin", "backup", "verify", place, "--backup", before]).await;
    assert_eq!((&before["frames"], &before["frames_shredded"]), (&json!(150), &json!(151)));
    let other = start(1, 3, &key).await;
    assert_eq!(answer(&other, &["admin", "restore", place]).await["frames"], 301);
    assert_eq!(contents(&other, "rotates").await, contents(&cluster, "rotates").await);
    for cluster in [&cluster, &other] {
        let again = store_named(cluster, "rotates").await;
        assert_eq!((&again["id"], &again["unchanged"]), (&named["id"], &json!(true)), "the key of ids stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_goes_on_after_everything_was_killed_in_its_midst() {
    let key = ClusterKey::generate(&mut mira_crypto::os_rng());
    let cluster = start(1, 2, &key).await;
    cluster.client(0).put_collection("notes", &json!({ "dim": 8, "partitions": 2 })).await.expect("a collection");
    fill(&cluster, "notes", 0..3_000, "zebra").await;
    let (_folder, place) = place();
    let place = place.to_str().expect("UTF-8");
    answer(&cluster, &["admin", "backup", "create", place]).await;

    let mut other = start(1, 4, &key).await;
    kill_half_way(&mut other, &["admin", "restore", place]).await;
    // Until all is back nobody writes over it.
    let early = json!({ "content": "early", "vector": vector(1), "collection": "notes" });
    let refused = other.client(0).once("store", &early).await;
    let status = other.client(0).call("status", &json!({})).await.expect("a status");
    if status["frames"].as_u64().unwrap() < 3_000 {
        assert!(refused.is_err(), "{refused:?}");
    }
    let restored = answer(&other, &["admin", "restore", place]).await;
    assert_eq!(restored["frames"], 3_000);
    assert_eq!(contents(&other, "notes").await, contents(&cluster, "notes").await);
    fill(&other, "notes", 3_000..3_010, "zebra").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_an_old_backup_opens_after_shredding() {
    let key = ClusterKey::generate(&mut mira_crypto::os_rng());
    let cluster = start(1, 2, &key).await;
    let client = cluster.client(0);
    for name in ["kept", "secrets"] {
        client.put_collection(name, &json!({ "dim": 8, "partitions": 2 })).await.expect("a collection");
        fill(&cluster, name, 0..200, name).await;
    }
    let (folder, place) = place();
    let place = place.to_str().expect("UTF-8");
    let backup = answer(&cluster, &["admin", "backup", "create", place]).await;
    let whole = answer(&cluster, &["forget", "--all", "--collection", "secrets", "--shred", "--yes"]).await;
    let number = whole["shred"].as_u64().expect("a number").to_string();

    // The place of backups still has the keys, and the cluster says so.
    until_only_places_are_waited_for(&cluster, &number, place).await;
    answer(&cluster, &["admin", "backup", "keys", place]).await;
    let receipt = folder.path().join("receipt.json");
    let receipt = receipt.to_str().expect("UTF-8");
    let done = answer(&cluster, &["admin", "shred-status", &number, "--wait", "--receipt", receipt]).await;
    assert_eq!((&done["state"], &done["whole"]), (&json!("done"), &json!(true)));
    let statement: Value = serde_json::from_str(done["receipt"]["statement"].as_str().unwrap()).expect("JSON");
    assert_eq!((&statement["collection"], &statement["repositories"]), (&json!("secrets"), &json!([place])));
    assert!(
        statement["destroyed_at_index"].is_u64() && statement["keys"].as_array().unwrap().len() == 2,
        "{statement}"
    );
    let public_key = done["receipt"]["public_key"].as_str().unwrap();
    let checked = mira(&cluster, &["admin", "shred-status", "--check", receipt, "--public-key", public_key]).await;
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let text = std::fs::read_to_string(receipt).expect("readable");
    std::fs::write(receipt, text.replace("secrets", "nothing")).expect("written");
    assert!(refusal(&cluster, &["admin", "shred-status", "--check", receipt]).await.contains("altered"));

    // The backup that was made before holds it still, and nobody opens it: not where it was made, not elsewhere.
    let verified = answer(&cluster, &["admin", "backup", "verify", place]).await;
    assert_eq!((&verified["frames"], &verified["frames_shredded"]), (&json!(200), &json!(200)));
    let other = start(3, 4, &key).await;
    let restored = answer(&other, &["admin", "restore", place, "--backup", backup["backup"].as_str().unwrap()]).await;
    assert_eq!((&restored["collections"], &restored["shredded"]), (&json!(["kept"]), &json!(["secrets"])));
    assert_eq!(restored["frames"], 200);
    assert!(other.client(0).collection("secrets").await.is_err());
    assert_eq!(contents(&other, "kept").await, contents(&cluster, "kept").await);

    // A place that is gone is waited for until the cluster is told.
    let id =
        answer(&cluster, &["admin", "backup", "places"]).await["repositories"][0]["id"].as_str().unwrap().to_owned();
    let again = answer(&cluster, &["forget", "--all", "--collection", "kept", "--shred", "--yes"]).await;
    answer(&cluster, &["admin", "backup", "forget", &id]).await;
    let number = again["shred"].as_u64().expect("a number").to_string();
    assert_eq!(answer(&cluster, &["admin", "shred-status", &number, "--wait"]).await["state"], "done");
}

/// A moment that lies behind everything that was answered before, and before everything that is asked after.
async fn moment() -> String {
    let apart = Duration::from_millis(20);
    tokio::time::sleep(apart).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
    tokio::time::sleep(apart).await;
    jiff::Timestamp::from_millisecond(now as i64).expect("a time").to_string()
}

async fn secret(cluster: &Cluster, content: &str) {
    let secret = json!({
        "content": content, "private": true, "collection": "notes", "vector": vector(9_000), "replace": true,
        "id": "01999999-0000-7000-8000-999999999999",
    });
    let url = format!("{}/mcp/store", cluster.router_url(0));
    private(cluster, reqwest::Client::new().post(url).json(&secret)).await;
}

async fn opened(cluster: &Cluster) -> String {
    let recall = json!({ "id": "01999999-0000-7000-8000-999999999999", "collection": "notes" });
    let url = format!("{}/mcp/recall", cluster.router_url(0));
    let mine = private(cluster, reqwest::Client::new().post(url).json(&recall)).await;
    mine["frames"][0]["content"].as_str().expect("it is there").to_owned()
}

fn ids(numbers: std::ops::Range<u64>) -> Value {
    json!(numbers.map(|number| format!("01999999-0000-7000-8000-{number:012}")).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_moment_between_backups_comes_back() {
    let key = ClusterKey::generate(&mut mira_crypto::os_rng());
    let cluster = start(3, 4, &key).await;
    let client = cluster.client(0);
    client.put_collection("notes", &json!({ "dim": 8, "partitions": 4 })).await.expect("a collection");
    client.put_collection("more", &json!({ "dim": 8, "partitions": 1 })).await.expect("a collection");
    let before_all = moment().await;
    fill(&cluster, "notes", 0..600, "zebra").await;
    secret(&cluster, "first words").await;
    let (folder, place) = place();
    let place = place.to_str().expect("UTF-8");
    let first = answer(&cluster, &["admin", "backup", "create", place]).await;

    // What is to come back: frames replaced, frames gone, a private one, a file in chunks.
    fill(&cluster, "notes", 100..120, "zebra-anew").await;
    client.call("forget", &json!({ "ids": ids(5..9), "collection": "notes" })).await.expect("forgotten");
    secret(&cluster, "second words").await;
    let file = folder.path().join("recording.bin");
    let bytes: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).take(2_500_000).collect();
    std::fs::write(&file, &bytes).expect("written");
    let file = file.to_str().expect("UTF-8");
    let stored = answer(&cluster, &["store", "--collection", "more", "--file", file]).await;
    let file_id = stored["id"].as_str().expect("an id").to_owned();
    let early = moment().await;
    let at_early = (contents(&cluster, "notes").await, contents(&cluster, "more").await);

    // And what is not: all that is undone, replaced or added later.
    fill(&cluster, "notes", 0..50, "zebra-late").await;
    fill(&cluster, "notes", 700..760, "zebra-late").await;
    client.call("forget", &json!({ "ids": ids(110..300), "collection": "notes" })).await.expect("forgotten");
    client.call("forget", &json!({ "ids": [file_id], "collection": "more" })).await.expect("forgotten");
    secret(&cluster, "third words").await;
    let log = answer(&cluster, &["admin", "backup", "create", place, "--log"]).await;
    assert_eq!((&log["log_only"], &log["frames"], &log["forgotten"]), (&json!(true), &json!(0), &json!([])));
    client.put_collection("later", &json!({ "dim": 8, "partitions": 3 })).await.expect("a collection");
    fill(&cluster, "later", 0..80, "zebra-later").await;
    fill(&cluster, "later", 10..20, "zebra-latest").await;
    let late = moment().await;
    let at_late = (contents(&cluster, "notes").await, contents(&cluster, "later").await);
    fill(&cluster, "later", 0..500, "zebra-last").await;
    client.call("forget", &json!({ "ids": ids(0..700), "collection": "notes" })).await.expect("forgotten");
    let last = answer(&cluster, &["admin", "backup", "create", place]).await;
    assert_eq!((&last["base"], &last["forgotten"]), (&first["backup"], &json!([])));
    let after_all = moment().await;
    let verified = answer(&cluster, &["admin", "backup", "verify", place]).await;
    assert_eq!(verified["backup"], last["backup"]);

    let listed = answer_local(&cluster, &["admin", "backup", "list", place, "--json"]).await;
    let time = |text: &str| text.parse::<jiff::Timestamp>().expect("a time");
    let listed_at = |at: usize, end: &str| time(listed[at][end].as_str().expect("a time"));
    assert!(listed_at(0, "at_from") <= time(&early) && time(&late) <= listed_at(0, "at_until"), "{listed}");
    assert!(listed[1].get("at_from").is_none() && listed_at(2, "at_from") > time(&late), "{listed}");
    for file in files(Path::new(place)) {
        let bytes = std::fs::read(&file).expect("readable");
        assert!(!bytes.windows(5).any(|window| window == b"zebra"), "{}", file.display());
    }

    let other = start(1, 3, &key).await;
    for (at, why) in [(&before_all, "before the first"), (&after_all, "after the end")] {
        let refused = refusal(&other, &["admin", "restore", place, "--at", at]).await;
        assert!(refused.contains(why) && refused.contains("not_found"), "{refused}");
    }
    assert!(refusal(&other, &["admin", "restore", place, "--at", "yesterday"]).await.contains("--at"));
    let only_log = log["backup"].as_str().unwrap();
    assert!(refusal(&other, &["admin", "restore", place, "--backup", only_log]).await.contains("logs only"));

    let restored = answer(&other, &["admin", "restore", place, "--at", &early]).await;
    assert_eq!((&restored["backup"], &restored["collections"]), (&first["backup"], &json!(["more", "notes"])));
    assert_eq!(contents(&other, "notes").await, at_early.0);
    assert_eq!(contents(&other, "more").await, at_early.1);
    assert_eq!(opened(&other).await, "second words");
    let output = format!("{file}.early");
    answer(&other, &["recall", "--collection", "more", &file_id, "--output", &output]).await;
    assert!(std::fs::read(&output).expect("it is there") == bytes, "the file is another one");
    let search = json!({ "vector": vector(105), "k": 1, "collection": "notes" });
    let found = other.client(0).call("search", &search).await.expect("searched");
    assert_eq!(found["hits"][0]["content"], "zebra-anew 105");
    fill(&other, "notes", 0..10, "zebra-goes-on").await;

    // Another one, from the log of two backups, with a collection that the first knew nothing of.
    let other = start(1, 8, &key).await;
    let restored = answer(&other, &["admin", "restore", place, "--at", &late]).await;
    assert_eq!(restored["collections"], json!(["later", "more", "notes"]));
    assert_eq!(contents(&other, "notes").await, at_late.0);
    assert_eq!(contents(&other, "later").await, at_late.1);
    assert_eq!(contents(&other, "more").await, BTreeMap::new());
    assert_eq!(opened(&other).await, "third words");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_that_the_logs_do_not_reach_is_refused() {
    let key = ClusterKey::generate(&mut mira_crypto::os_rng());
    let cluster = start(1, 2, &key).await;
    let client = cluster.client(0);
    for name in ["kept", "secrets", "grows"] {
        client.put_collection(name, &json!({ "dim": 8, "partitions": 1 })).await.expect("a collection");
        fill(&cluster, name, 0..100, name).await;
    }
    let (_folder, place) = place();
    let place = place.to_str().expect("UTF-8");
    answer(&cluster, &["admin", "backup", "create", place]).await;
    fill(&cluster, "kept", 0..50, "anew").await;
    fill(&cluster, "secrets", 0..50, "anew").await;
    let before = moment().await;
    let expected = contents(&cluster, "kept").await;
    answer(&cluster, &["admin", "backup", "create", place, "--log"]).await;
    fill(&cluster, "kept", 50..60, "lost").await;
    let lost = moment().await;
    // More entries than a shard keeps: writes at the same time would share entries.
    for number in 0..6_500 {
        let item = json!({ "content": format!("noise {number}"), "vector": vector(number), "collection": "kept" });
        client.call("store", &item).await.expect("stored");
    }
    let log = answer(&cluster, &["admin", "backup", "create", place, "--log"]).await;
    assert_ne!(log["forgotten"], json!([]));
    let whole = answer(&cluster, &["forget", "--all", "--collection", "secrets", "--shred", "--yes"]).await;
    let number = whole["shred"].as_u64().expect("a number").to_string();
    until_only_places_are_waited_for(&cluster, &number, place).await;
    answer(&cluster, &["admin", "backup", "create", place, "--log"]).await;
    answer(&cluster, &["admin", "shred-status", &number, "--wait"]).await;
    let other = start(1, 3, &key).await;
    let refused = refusal(&other, &["admin", "restore", place, "--at", &lost]).await;
    assert!(refused.contains("did not keep its log") && refused.contains("possible: "), "{refused}");

    // Over a growth nothing is recovered forward, but from behind it.
    answer(&cluster, &["admin", "backup", "create", place]).await;
    client.grow("grows", 2).await.expect("it grows");
    eventually("the growth ends", PATIENCE, async || {
        client.collection("grows").await.expect("a collection")["growth"]["step"] == "remembering"
    })
    .await;
    let grown = moment().await;
    // Without it the next backup would show that moment too.
    fill(&cluster, "kept", 0..1, "after").await;
    eventually("a backup after the growth", PATIENCE, async || {
        mira(&cluster, &["admin", "backup", "create", place, "--timeout", "20s"]).await.status.success()
    })
    .await;
    let refused = refusal(&other, &["admin", "restore", place, "--at", &grown]).await;
    assert!(refused.contains("grew") && refused.contains("conflict"), "{refused}");

    // What was shredded since stays gone, also of the moments before.
    let restored = answer(&other, &["admin", "restore", place, "--at", &before]).await;
    assert_eq!((&restored["collections"], &restored["frames"]), (&json!(["grows", "kept"]), &json!(200)));
    assert!(other.client(0).collection("secrets").await.is_err());
    assert_eq!(contents(&other, "kept").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_with_a_piece_missing_is_named_and_one_that_was_stopped_goes_on() {
    let key = ClusterKey::generate(&mut mira_crypto::os_rng());
    let cluster = start(1, 2, &key).await;
    cluster.client(0).put_collection("notes", &json!({ "dim": 8, "partitions": 2 })).await.expect("a collection");
    fill(&cluster, "notes", 0..2_000, "zebra").await;
    let (_folder, place) = place();
    let place_text = place.to_str().expect("UTF-8");
    answer(&cluster, &["admin", "backup", "create", place_text]).await;
    fill(&cluster, "notes", 500..1_500, "anew").await;
    let at = moment().await;
    let expected = contents(&cluster, "notes").await;
    fill(&cluster, "notes", 0..2_000, "later").await;
    answer(&cluster, &["admin", "backup", "create", place_text, "--log"]).await;

    let mut other = start(1, 3, &key).await;
    let pieces = files(&place).into_iter().filter(|file| is_of_log(file.file_name().unwrap().to_str().unwrap()));
    let pieces: Vec<PathBuf> = pieces.collect();
    assert!(pieces.len() >= 6, "{pieces:?}");
    for piece in pieces {
        let name = piece.file_name().unwrap().to_str().unwrap().to_owned();
        let whole = std::fs::read(&piece).expect("readable");
        let mut altered = whole.clone();
        altered[whole.len() / 2] ^= 1;
        std::fs::write(&piece, altered).expect("written");
        let refused = refusal(&other, &["admin", "restore", place_text, "--at", &at]).await;
        assert!(refused.contains(&name) && refused.contains("altered") && refused.contains("damaged"), "{refused}");
        std::fs::remove_file(&piece).expect("removed");
        let refused = refusal(&other, &["admin", "restore", place_text, "--at", &at]).await;
        assert!(refused.contains(&name) && refused.contains("missing"), "{refused}");
        std::fs::write(&piece, &whole).expect("written");
    }
    let status = other.client(0).call("status", &json!({})).await.expect("a status");
    assert_eq!(status["frames"], 0, "nothing was changed");

    kill_half_way(&mut other, &["admin", "restore", place_text, "--at", &at]).await;
    // Another moment is another restore.
    let status = other.client(0).call("status", &json!({})).await.expect("a status");
    if status["frames"].as_u64().unwrap() < 2_000 {
        let refused = refusal(&other, &["admin", "restore", place_text]).await;
        assert!(refused.contains("another backup is being restored"), "{refused}");
    }
    let restored = answer(&other, &["admin", "restore", place_text, "--at", &at]).await;
    assert_eq!(restored["frames"], 2_000);
    assert_eq!(contents(&other, "notes").await, expected);
    assert!(!other.data(0).join("recoveries").exists() || files(&other.data(0).join("recoveries")).is_empty());
    fill(&other, "notes", 3_000..3_010, "zebra").await;
}
