//! Cluster keys wrapped by Vault: the program against a server that speaks its transit API, with the failures that such a
//! server has. KMS is tried against a server of its protocol beside the backups in S3 (`chaos-tests/python`).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mira_crypto::{ClusterKey, MetaSealer};
use serde_json::{Value, json};

const TOKEN: &str = "hvs.token-of-a-node";

/// The transit engine at `transit/`, with keys by name and their versions; it really seals.
#[derive(Default)]
struct Transit {
    keys: HashMap<String, Vec<MetaSealer>>,
    /// The next so many requests are answered with this status.
    failing: (u32, u16),
    requests: u32,
}

type Shared = Arc<Mutex<Transit>>;

struct Server {
    address: SocketAddr,
    shared: Shared,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start() -> Server {
        let shared = Shared::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/v1/transit/{action}/{key}", post(act)).with_state(shared.clone());
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        let server = Server { address, shared, _runtime: runtime };
        server.rotate("mira");
        server
    }

    /// A further version of a key.
    fn rotate(&self, name: &str) {
        let key = ClusterKey::generate(&mut mira_crypto::os_rng());
        self.shared.lock().unwrap().keys.entry(name.into()).or_default().push(MetaSealer::new(&key));
    }

    fn mira(&self, folder: &Path, arguments: &[&str]) -> Output {
        self.mira_with(folder, arguments, &[("VAULT_TOKEN", TOKEN)])
    }

    fn mira_with(&self, folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_mira"))
            .args(["admin", "keys"])
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .env("HOME", folder)
            .env("VAULT_ADDR", format!("http://{}", self.address))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn ids(&self, folder: &Path, arguments: &[&str]) -> Vec<String> {
        let output = self.mira(folder, arguments);
        let (out, said) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {said}");
        out.lines().map(str::to_owned).collect()
    }

    fn refusal(&self, folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> String {
        let output = self.mira_with(folder, arguments, environment);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(output.stdout.is_empty());
        let said = text(&output.stderr);
        assert!(!said.contains(TOKEN), "{said}");
        said
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn act(
    State(shared): State<Shared>,
    UrlPath((action, name)): UrlPath<(String, String)>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let mut transit = shared.lock().unwrap();
    transit.requests += 1;
    let refused = |status: u16, said: &str| {
        (StatusCode::from_u16(status).unwrap(), Json(json!({ "errors": [said] }))).into_response()
    };
    if transit.failing.0 > 0 {
        transit.failing.0 -= 1;
        return refused(transit.failing.1, "Vault is sealed");
    }
    if headers.get("x-vault-token").and_then(|token| token.to_str().ok()) != Some(TOKEN) {
        return refused(403, "permission denied");
    }
    let Some(versions) = transit.keys.get(&name) else { return refused(404, "encryption key not found") };
    match action.as_str() {
        "encrypt" => {
            let plain = STANDARD.decode(body["plaintext"].as_str().unwrap()).unwrap();
            let sealed = versions.last().unwrap().seal_proposal(b"transit", &plain, &mut mira_crypto::os_rng());
            let ciphertext = format!("vault:v{}:{}", versions.len(), STANDARD.encode(sealed));
            Json(json!({ "data": { "ciphertext": ciphertext, "key_version": versions.len() } })).into_response()
        }
        "decrypt" => {
            let parts: Vec<&str> = body["ciphertext"].as_str().unwrap().split(':').collect();
            let opened = match parts[..] {
                ["vault", version, sealed] => version
                    .strip_prefix('v')
                    .and_then(|version| versions.get(version.parse::<usize>().ok()?.checked_sub(1)?))
                    .zip(STANDARD.decode(sealed).ok())
                    .and_then(|(key, sealed)| key.open(b"transit", &sealed, 4_096).ok()),
                _ => None,
            };
            match opened {
                Some(plain) => Json(json!({ "data": { "plaintext": STANDARD.encode(plain) } })).into_response(),
                None => refused(400, "invalid ciphertext: cipher: message authentication failed"),
            }
        }
        _ => refused(404, "no handler for route"),
    }
}

#[test]
fn keys_wrapped_by_vault_are_made_shown_and_wrapped_again() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let (folder, file) = (folder.path(), folder.path().join("cluster.key"));
    let first = server.ids(folder, &["new", "cluster.key"]);
    let plain = std::fs::read_to_string(&file).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let second = server.ids(folder, &["new", "cluster.key", "--vault", "transit/mira"]);
    let both = [second.clone(), first.clone()].concat();
    assert_eq!(server.ids(folder, &["show", "cluster.key"]), both);
    let mixed = std::fs::read_to_string(&file).unwrap();
    assert!(
        mixed.starts_with("vault transit/mira vault:v1:") && mixed.ends_with(&plain),
        "the older key stays as it was"
    );

    // After Vault's own rotation, and into and out of its hands: the keys stay what they are.
    server.rotate("mira");
    assert_eq!(server.ids(folder, &["wrap", "cluster.key", "--vault", "transit/mira"]), both);
    let wrapped = std::fs::read_to_string(&file).unwrap();
    assert_eq!(wrapped.lines().filter(|line| line.starts_with("vault transit/mira vault:v2:")).count(), 2);
    assert!(!wrapped.contains(plain.trim()));
    assert_eq!(server.ids(folder, &["wrap", "cluster.key"]), both);
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().last(), Some(plain.trim()));
}

#[test]
fn what_a_vault_refuses_is_said_and_changes_nothing() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let (folder, file) = (folder.path(), folder.path().join("cluster.key"));
    let made = server.ids(folder, &["new", "cluster.key", "--vault", "transit/mira"]);
    let before = std::fs::read_to_string(&file).unwrap();
    let with = [("VAULT_TOKEN", TOKEN)];

    let stranger = server.refusal(folder, &["show", "cluster.key"], &[("VAULT_TOKEN", "hvs.wrong")]);
    assert!(stranger.contains("refuses: permission denied") && !stranger.contains("hvs.wrong"), "{stranger}");
    assert!(server.refusal(folder, &["show", "cluster.key"], &[]).contains("VAULT_TOKEN"));
    let no_key = server.refusal(folder, &["new", "cluster.key", "--vault", "transit/other"], &with);
    assert!(no_key.contains("transit/other: encryption key not found"), "{no_key}");
    let no_mount = server.refusal(folder, &["new", "cluster.key", "--vault", "mira"], &with);
    assert!(no_mount.contains("MOUNT/NAME"), "{no_mount}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);

    // Of another key of the server, and altered.
    server.rotate("other");
    for wrong in [before.replace("transit/mira", "transit/other"), before.replace("vault:v1:", "vault:v1:AAAA")] {
        std::fs::write(&file, &wrong).unwrap();
        let refused = server.refusal(folder, &["show", "cluster.key"], &with);
        assert!(refused.contains("invalid ciphertext"), "{refused}");
        server.refusal(folder, &["wrap", "cluster.key"], &with);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), wrong, "a file that does not open is not written");
    }
    std::fs::write(&file, &before).unwrap();

    // Twice out of order, then well; out of order for good; and nobody there.
    server.shared.lock().unwrap().failing = (2, 503);
    assert_eq!(server.ids(folder, &["show", "cluster.key"]), made);
    server.shared.lock().unwrap().failing = (u32::MAX, 503);
    let down = server.refusal(folder, &["show", "cluster.key"], &with);
    assert!(down.contains("cannot be reached") && down.contains("503"), "{down}");
    let started = Instant::now();
    let nobody = server.refusal(folder, &["show", "cluster.key"], &[with[0], ("VAULT_ADDR", "http://127.0.0.1:9")]);
    assert!(nobody.contains("cannot be reached") && nobody.contains("refused"), "{nobody}");
    assert!(started.elapsed().as_secs() < 15);
    assert!(
        server.refusal(folder, &["show", "cluster.key"], &[with[0], ("VAULT_ADDR", "vault")]).contains("no address")
    );

    // Others can read the file.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(server.refusal(folder, &["show", "cluster.key"], &with).contains("others can read"));
}
