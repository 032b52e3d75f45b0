//! Every answer that was cut says so, and how to go on.

use serde_json::{Value, json};

use crate::client::World;
use crate::mcp;

fn contents(reply: &Value) -> Vec<String> {
    let frames = reply["frames"].as_array().unwrap().iter();
    frames.map(|frame| frame["content"].as_str().unwrap().to_owned()).collect()
}

async fn talk(world: &World, turns: usize) {
    world.collection("wide", 4).await;
    for n in 0..turns {
        let item = json!({ "content": format!("turn {n}"), "session": "talk", "collection": "wide" });
        world.post("/mcp/store", item).await.ok();
    }
}

#[tokio::test]
async fn a_session_is_read_to_its_end_page_by_page_in_either_direction() {
    let world = World::new().await;
    talk(&world, 23).await;
    for last in [false, true] {
        let mut request = json!({ "session": "talk", "collection": "wide", "limit": 5, "last": last });
        let mut read: Vec<String> = Vec::new();
        let mut pages = 0;
        loop {
            let page = world.post("/mcp/recall", request.clone()).await.ok();
            let turns = contents(&page);
            read = if last { [turns, read].concat() } else { [read, turns].concat() };
            pages += 1;
            if page["more"] != true {
                assert!(page["next_cursor"].is_null(), "{page}");
                break;
            }
            request["cursor"] = page["next_cursor"].clone();
        }
        assert_eq!(read, (0..23).map(|n| format!("turn {n}")).collect::<Vec<_>>());
        assert_eq!(pages, 5);
    }
    let exact = json!({ "session": "talk", "collection": "wide", "limit": 23 });
    assert!(world.post("/mcp/recall", exact).await.ok().get("more").is_none(), "just enough is not cut");
}

#[tokio::test]
async fn a_session_of_101_is_not_told_as_100() {
    let world = World::new().await;
    talk(&world, 101).await;
    let request = json!({ "session": "talk", "collection": "wide" });
    let reply = world.post("/mcp/recall", request.clone()).await.ok();
    assert_eq!((reply["frames"].as_array().unwrap().len(), &reply["more"]), (100, &json!(true)));
    let text = mcp::call(&world, "recall", request).await["content"][0]["text"].as_str().unwrap().to_owned();
    let cursor = reply["next_cursor"].as_str().unwrap();
    assert!(text.starts_with("100 memories.") && text.contains(&format!("cursor {cursor:?}")), "{}", &text[..300]);
}

#[tokio::test]
async fn large_frames_asked_for_by_id_come_in_several_answers() {
    let world = World::new().await;
    let large = |n: usize| json!({ "content": format!("{n} {}", "x".repeat(1 << 20)[8..].to_owned()), "vector": vec![1.0; 32] });
    let items: Vec<Value> = (0..12).map(large).collect();
    let stored = world.post("/mcp/store", json!({ "items": items })).await.ok();
    let ids: Vec<Value> = stored["items"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect();
    let unknown = "01999999-0000-7000-8000-00000000beef";
    let asked: Vec<Value> = ids.iter().cloned().chain([json!(unknown)]).collect();
    let mut request = json!({ "ids": asked });
    let (mut found, mut missing, mut answers) = (Vec::new(), Vec::new(), 0);
    loop {
        let reply = world.post("/mcp/recall", request.clone()).await.ok();
        found.extend(reply["frames"].as_array().unwrap().iter().map(|frame| frame["id"].clone()));
        missing.extend(reply["missing"].as_array().cloned().unwrap_or_default());
        answers += 1;
        if reply["more"] != true {
            break;
        }
        request["cursor"] = reply["next_cursor"].clone();
    }
    assert_eq!((found, missing), (ids, vec![json!(unknown)]));
    assert!(answers > 1);
}

#[tokio::test]
async fn a_scan_says_whether_there_is_more() {
    let world = World::new().await;
    world.store_all("default", &["a", "b", "c", "d", "e"]).await;
    let mut path = "/collections/default/frames?limit=2".to_owned();
    let mut sizes = Vec::new();
    loop {
        let page = world.get(&path).await.ok();
        sizes.push(page["frames"].as_array().unwrap().len());
        if page["more"] != true {
            assert!(page["next_cursor"].is_null(), "{page}");
            break;
        }
        path = format!("/collections/default/frames?limit=2&cursor={}", page["next_cursor"].as_str().unwrap());
    }
    assert_eq!(sizes, [2, 2, 1]);
}
