//! Refusals: each names the flag, the value and what is allowed, and exits with code 2.

use serde_json::Value;

use crate::{
    invocation::{assert_matches_schema, program, program_with_descriptors},
    servers::Server,
};

/// Where nobody listens; nothing is sent there.
const URL: &str = "ws://127.0.0.1:9/";

#[track_caller]
fn assert_refused(arguments: &str, message: &str) {
    let output = program(arguments).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments}: {stderr}");
    let first_line = stderr.lines().next();
    assert_eq!(first_line, Some(&*format!("error: {message}")), "{arguments}");
    assert!(output.stdout.is_empty());
}

#[test]
fn values_out_of_range_are_refused_with_the_range() {
    let number = |range| format!("expected a number from {range}");
    let size = "expected a size from 0 B to 1.0 GiB".to_owned();
    let time = |range| format!("expected a duration from {range}");
    for (flag, placeholder, values, expected) in [
        (
            "--connections",
            "N",
            &["0", "1000001", "-1", "many", "1.5"][..],
            number("1 to 1,000,000"),
        ),
        ("--depth", "N", &["0", "65537", "x"], number("1 to 65,536")),
        ("--threads", "N", &["0", "1025"], number("1 to 1,024")),
        (
            "--payload",
            "SIZE",
            &["2GiB", "1073741825", "big", "-1", "1..big", "1..2GiB", ".."],
            size,
        ),
        (
            "--payload",
            "SIZE",
            &["2KiB..1KiB"],
            "expected a range from a size to one that is not smaller".to_owned(),
        ),
        ("--fragments", "N", &["0", "1025"], number("1 to 1,024")),
        ("--duration", "TIME", &["0s", "9ms", "2days", "10", "soon"], time("10ms to 1day")),
        ("--warmup", "TIME", &["2h", "1", "soon"], time("0s to 1h")),
        ("--opening-timeout", "TIME", &["0s", "2h"], time("1ms to 1h")),
    ] {
        for value in values {
            for arguments in [format!("{flag}={value}"), format!("{flag} {value}")] {
                assert_refused(
                    &format!("{URL} {arguments}"),
                    &format!("invalid value '{value}' for '{flag} <{placeholder}>': {expected}"),
                );
            }
        }
    }
}

#[test]
fn a_message_that_idle_connections_cannot_send_at_once_is_refused() {
    for size in ["32769", "64KiB"] {
        assert_refused(
            &format!("idle {URL} --echo {size}"),
            &format!(
                "invalid value '{size}' for '--echo <SIZE>': expected a size from 0 B to 32.0 KiB"
            ),
        );
    }
}

#[test]
fn rates_that_cannot_be_planned_are_refused() {
    let number = "is no rate: expected 1 to 100M a second, such as 500, 50k or 1.5M";
    for (rate, reason) in [
        ("0", format!("\"0\" {number}")),
        ("1k..fast", format!("\"fast\" {number}")),
        ("1k,2k,", format!("\"\" {number}")),
    ] {
        assert_refused(
            &format!("{URL} --rate={rate}"),
            &format!("invalid value '{rate}' for '--rate <RATE>': {reason}"),
        );
    }
}

#[test]
fn searches_that_cannot_be_carried_out_are_refused() {
    let metrics = "p50, p90, p99, p99.9, p99.99, max, mean, errors";
    for (slo, reason) in [
        ("p99", "expected METRIC<VALUE or METRIC>VALUE, such as p99<2ms".to_owned()),
        ("p95<2ms", format!("\"p95\" is no metric that can be bounded here; expected {metrics}")),
        (
            "p99<2",
            "\"2\" is no value of p99; expected a time such as 500us, 1.5ms or 2s".to_owned(),
        ),
    ] {
        assert_refused(
            &format!("search {URL} --slo {slo}"),
            &format!("invalid value '{slo}' for '--slo <CONDITION>': {reason}"),
        );
    }
    let search = format!("search {URL} --slo p99<2ms");
    for precision in ["5", "0.5%", "51%", "nan%"] {
        assert_refused(
            &format!("{search} --precision {precision}"),
            &format!(
                "invalid value '{precision}' for '--precision <PERCENT>': expected a percentage \
                 from 1% to 50%"
            ),
        );
    }
    assert_refused(
        &format!("{search} --start-rate 2k --max-rate 500"),
        "invalid value '500' for '--max-rate <RATE>': expected at least --start-rate, which is 2000",
    );
}

#[test]
fn conditions_on_what_is_not_measured_are_refused() {
    for (condition, flag) in
        [("ratio.p99>1.1", "--baseline"), ("server_cpu_per_message>2us", "--server-pid")]
    {
        assert_refused(
            &format!("{URL} --fail-if {condition}"),
            &format!("invalid value '{condition}' for '--fail-if <CONDITION>': that needs {flag}"),
        );
    }
    assert_refused(
        &format!("compare {URL} {URL} --fail-if ratio.server_cpu_per_message>1"),
        "invalid value 'ratio.server_cpu_per_message>1' for '--fail-if <CONDITION>': that needs \
         --server-pid-a and --server-pid-b",
    );
    assert_refused(
        &format!("compare {URL} {URL} --seed new"),
        "invalid value 'new' for '--seed <N>': expected a number from 0 to \
         18,446,744,073,709,551,615",
    );
    assert_refused(
        &format!("{URL} --fail-if p99>fast"),
        "invalid value 'p99>fast' for '--fail-if <CONDITION>': \"fast\" is no value of p99; \
         expected a time such as 500us, 1.5ms or 2s",
    );
}

#[test]
fn what_is_no_baseline_is_refused() {
    assert_refused(
        &format!("{URL} --baseline /nonexistent.json"),
        "invalid value '/nonexistent.json' for '--baseline <FILE>': No such file or directory (os \
         error 2)",
    );
    assert_refused(
        &format!("{URL} --baseline /dev/null"),
        "invalid value '/dev/null' for '--baseline <FILE>': expected the result of a run, as --json \
         writes it: EOF while parsing a value at line 1 column 0",
    );
}

#[test]
fn urls_that_cannot_be_driven_are_refused_with_the_reason() {
    for (url, reason) in [
        (
            "http://localhost/",
            "the scheme has to be ws:// or wss://; expected ws://HOST[:PORT][/PATH]",
        ),
        (
            "localhost:9000",
            "the scheme has to be ws:// or wss://; expected ws://HOST[:PORT][/PATH]",
        ),
        ("ws://", "the host is missing; expected ws://HOST[:PORT][/PATH]"),
        ("ws://localhost:0/", "the port has to be 1 to 65535"),
        ("ws://localhost/#***", "a WebSocket URL has no fragment (\"#\")"),
    ] {
        assert_refused(url, &format!("invalid value '{url}' for '<URL>': {reason}"));
    }
}

#[test]
fn a_value_that_should_have_been_quoted_is_pointed_out() {
    assert_refused(
        &format!("{URL} --rate 10k..100k over 60s"),
        "unexpected argument 'over' found; values with spaces are quoted, such as --rate \
         '10k..100k over 60s'",
    );
    assert_refused(&format!("{URL} idle"), "the subcommand 'idle' cannot be used with '<URL>'");
}

#[test]
fn a_churn_that_cannot_be_is_refused() {
    for (arguments, message) in [
        (
            "--messages many",
            "invalid value 'many' for '--messages <N>': expected a number from 0 to 1,000,000",
        ),
        (
            "--answer-timeout 2h",
            "invalid value '2h' for '--answer-timeout <TIME>': expected a duration from 1ms to 1h",
        ),
        ("--close slowly", "invalid value 'slowly' for '--close <HOW>'"),
        (
            "--close abort --unix-socket /run/echo",
            "invalid value 'abort' for '--close <HOW>': a Unix socket (--unix-socket /run/echo) is \
             never reset; expected handshake",
        ),
        (
            "--rate 0",
            "invalid value '0' for '--rate <RATE>': \"0\" is no rate: expected 1 to 100M a second, \
             such as 500, 50k or 1.5M",
        ),
        (
            "--fail-if server_cpu_per_cycle>1ms",
            "invalid value 'server_cpu_per_cycle>1ms' for '--fail-if <CONDITION>': that needs \
             --server-pid",
        ),
        (
            "--fail-if messages_per_second<1",
            "invalid value 'messages_per_second<1' for '--fail-if <CONDITION>': \
             \"messages_per_second\" is no metric that can be bounded here; expected \
             cycles_per_second, p50, p90, p99, p99.9, p99.99, max, mean, handshake.p50, \
             handshake.p90, handshake.p99, handshake.p99.9, handshake.max, server_cpu_per_cycle, \
             errors",
        ),
    ] {
        assert_refused(&format!("churn {URL} {arguments}"), message);
    }
    for (arguments, message) in [
        (
            format!("search churn {URL} --slo cycles_per_second<1"),
            "invalid value 'cycles_per_second<1' for '--slo <CONDITION>': \"cycles_per_second\" is \
             no metric that can be bounded here; expected p50, p90, p99, p99.9, p99.99, max, mean, \
             handshake.p50, handshake.p90, handshake.p99, handshake.p99.9, handshake.max, errors",
        ),
        (
            format!("compare churn {URL} {URL} --fail-if ratio.server_cpu_per_cycle>1"),
            "invalid value 'ratio.server_cpu_per_cycle>1' for '--fail-if <CONDITION>': that needs \
             --server-pid-a and --server-pid-b",
        ),
        (
            format!("search churn {URL} --slo p99<1s --depth 3"),
            "unexpected argument '--depth' found",
        ),
    ] {
        assert_refused(&arguments, message);
    }
}

#[test]
fn cpus_that_do_not_exist_are_refused() {
    assert_refused(
        &format!("{URL} --cpus 1;2"),
        "invalid value '1;2' for '--cpus <LIST>': \"1;2\" is no CPU; \
         expected numbers and ranges such as 1,3-5",
    );
    let output = program(&format!("{URL} --cpus 100000")).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = "error: invalid value '100000' for '--cpus <LIST>': CPU 100000 is not among the \
                   CPUs that this process may use: ";
    assert!(stderr.starts_with(message), "{stderr}");
}

#[test]
fn header_fields_that_cannot_be_sent_are_refused_with_the_reason() {
    for (field, reason) in [
        ("X-Room", "expected NAME: VALUE, and the colon is missing"),
        ("X Room:7", "\"X Room\" cannot be the name of a header field"),
        ("Upgrade:h2c", "upgrade belongs to the opening handshake itself"),
        ("sec-websocket-key:x", "sec-websocket-key belongs to the opening handshake itself"),
        ("Sec-WebSocket-Protocol:chat", "subprotocols are asked for with --subprotocol"),
    ] {
        let message = format!("invalid value '{field}' for '--header <NAME: VALUE>': {reason}");
        let output = program(&format!("{URL} -H")).arg(field).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert_eq!(stderr.lines().next(), Some(&*format!("error: {message}")));
    }
    assert_refused(
        &format!("{URL} --subprotocol a,b"),
        "invalid value 'a,b' for '--subprotocol <NAME>': \
         expected a name without spaces or separators",
    );
}

#[test]
fn a_way_to_wait_is_refused_without_a_rate() {
    for command in [
        URL,
        &format!("compare {URL} {URL}"),
        &format!("churn {URL}"),
        &format!("compare churn {URL} {URL}"),
    ] {
        let output = program(&format!("{command} --wait sleep")).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        let message =
            "error: the following required arguments were not provided:\n  --rate <RATE>\n";
        assert!(stderr.starts_with(message) && stderr.contains("--wait <HOW>"), "{stderr}");
    }
}

#[test]
fn flags_that_do_not_fit_the_url_are_refused() {
    assert_refused(
        &format!("{URL} --insecure"),
        "--insecure is for wss://, and the URL is one of ws://",
    );
    assert_refused(
        &format!("{URL} --source ::1"),
        "invalid value '::1' for '--source <LIST>': the server's address is 127.0.0.1, of the \
         other family",
    );
    assert_refused(
        &format!("{URL} --proxy http://[::1]:9 --source 127.0.0.1"),
        "invalid value '127.0.0.1' for '--source <LIST>': the proxy's address is ::1, of the other \
         family",
    );
    assert_refused(
        &format!("{URL} --source 127.0.0.9-127.0.0.2"),
        "invalid value '127.0.0.9-127.0.0.2' for '--source <LIST>': \"127.0.0.9-127.0.0.2\" is no \
         address; expected addresses and ranges such as 127.0.0.2-127.0.0.9",
    );
    assert_refused(
        "wss://localhost:9/ --ca /nonexistent/ca.pem",
        "invalid value '/nonexistent/ca.pem' for '--ca <FILE>': I/O error: No such file or \
         directory (os error 2)",
    );
}

#[test]
fn ways_in_that_cannot_be_gone_are_refused_with_the_reason() {
    let proxy = "expected http://, socks5:// or socks5h://, each with [USER:PASSWORD@]HOST:PORT";
    let resolve = "expected HOST:PORT:ADDRESS[,ADDRESS...], such as example.com:443:127.0.0.1";
    for (flag, placeholder, value, reason) in [
        (
            "--proxy",
            "URL",
            "https://p:3128",
            &format!("TLS to the proxy itself is not spoken; {proxy}"),
        ),
        ("--proxy", "URL", "socks4://p", &format!("no proxy of that kind is known; {proxy}")),
        ("--proxy", "URL", "http://p", &format!("the port is missing; {proxy}")),
        (
            "--resolve",
            "HOST:PORT:ADDRESS",
            "h:80",
            &format!("there is no address in it; {resolve}"),
        ),
        (
            "--resolve",
            "HOST:PORT:ADDRESS",
            "h:80:localhost",
            &format!("\"localhost\" is no address; {resolve}"),
        ),
        (
            "--send-proxy-source",
            "LIST",
            "h",
            &"\"h\" is no address; expected addresses and ranges such as 127.0.0.2-127.0.0.9"
                .to_owned(),
        ),
    ] {
        for command in ["", "idle", "churn"] {
            assert_refused(
                &format!("{command} {URL} {flag} {value}"),
                &format!("invalid value '{value}' for '{flag} <{placeholder}>': {reason}"),
            );
        }
    }
    assert_refused(
        &format!("{URL} --send-proxy v3"),
        "invalid value 'v3' for '--send-proxy <VERSION>'",
    );
    for (flags, one, other) in [
        ("--proxy http://p:1 --no-proxy", "--proxy <URL>", "--no-proxy"),
        ("--proxy http://p:1 --unix-socket /x", "--proxy <URL>", "--unix-socket <PATH>"),
        (
            "--resolve h:1:::1 --unix-socket /x",
            "--resolve <HOST:PORT:ADDRESS>",
            "--unix-socket <PATH>",
        ),
    ] {
        assert_refused(
            &format!("{URL} {flags}"),
            &format!("the argument '{one}' cannot be used with '{other}'"),
        );
    }
    assert_refused(
        &format!("{URL} --send-proxy-source 10.0.0.1"),
        "the following required arguments were not provided:",
    );
}

#[test]
fn a_process_that_does_not_exist_is_refused() {
    assert_refused(
        &format!("{URL} --server-pid 4294967295"),
        "invalid value '4294967295' for '--server-pid <PID>': cannot read what process \
         4294967295 uses: No such file or directory (os error 2)",
    );
}

#[test]
fn a_name_without_address_is_refused() {
    let output = program("ws://nowhere.invalid/").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = "error: ws://nowhere.invalid/: cannot resolve \"nowhere.invalid\": ";
    assert!(stderr.starts_with(message), "{stderr}");
}

#[test]
fn too_few_descriptors_are_announced_with_the_command_that_mends_it() {
    let server = Server::honest();
    let output = program_with_descriptors(60)
        .args([&server.url(), "-c", "100", "--warmup", "0s", "--duration", "100ms", "--json", "-"])
        .args(["-t", "1", "--server-pid", &std::process::id().to_string()])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains(
            "warning: --connections 100 needs 231 open files, but the limit is 60; raise it for \
             this shell: sudo prlimit --pid $$ --nofile=231:231"
        ),
        "{stderr}"
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_matches_schema(&report);
    let codes: Vec<&Value> =
        report["warnings"].as_array().unwrap().iter().map(|warning| &warning["code"]).collect();
    for code in ["debug_build", "connections_not_opened", "too_few_descriptors"] {
        assert!(codes.contains(&&Value::from(code)), "{code} is not in {codes:?}");
    }
    // Though connections have taken all that there are.
    assert!(report["generator"].is_object() && report["server"].is_object(), "{report:#}");
    assert_eq!(stderr.matches("warning: --connections 100 needs").count(), 1, "{stderr}");
}

#[test]
fn no_refusal_shows_a_password_or_a_token() {
    for arguments in [
        "ws://me:secret@127.0.0.1:9/?token=secret#secret",
        "http://127.0.0.1:9/?token=secret",
        "me:secret@127.0.0.1:9",
        "127.0.0.1:9/?secret",
        "ws://127.0.0.1:99999/?token=secret",
        "ws://127.0.0.1:9/ ws://127.0.0.1:9/?token=secret",
        "compare ws://127.0.0.1:9/ ws://127.0.0.1:9/ ws://127.0.0.1:9/?token=secret",
        "idle ws://me:secret@127.0.0.1:0/",
        "ws://nowhere.invalid/?token=secret",
        "ws://127.0.0.1:9/ --proxy http://me:secret@p",
        "ws://127.0.0.1:9/ --proxy me:secret@p",
        "ws://127.0.0.1:9/ --proxy http://me:secret@nowhere.invalid:9",
    ] {
        let output = program(arguments).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}: {stderr}");
        assert!(stderr.starts_with("error: ") && !stderr.contains("secret"), "{stderr}");
    }
}

#[test]
fn flags_of_tls_and_http2_are_refused_where_they_mean_nothing() {
    let directory = std::env::temp_dir();
    let empty = directory.join(format!("ringecho-loadtest-{}-empty.pem", std::process::id()));
    std::fs::write(&empty, "").unwrap();
    let empty = empty.display().to_string();
    let secure = "wss://localhost:9/ --insecure";
    for (arguments, message) in [
        (
            format!("{URL} --tls 1.3"),
            "--tls is for wss://, and the URL is one of ws://".to_owned(),
        ),
        (
            format!("{URL} --tls-resume"),
            "--tls-resume is for wss://, and the URL is one of ws://".to_owned(),
        ),
        (
            format!("{URL} --sni localhost"),
            "--sni is for wss://, and the URL is one of ws://".to_owned(),
        ),
        (
            format!("{URL} --alpn h2"),
            "--alpn is for wss://, and the URL is one of ws://".to_owned(),
        ),
        (
            format!("{secure} --tls 1.1"),
            "invalid value '1.1' for '--tls <VERSION>'".to_owned(),
        ),
        (
            format!("{secure} --alpn h2,,x"),
            "invalid value 'h2,,x' for '--alpn <LIST>': \"\" is no name of a protocol: expected 1 to \
             255 bytes each, such as h2,http/1.1"
                .to_owned(),
        ),
        (
            format!("{secure} --sni a/b"),
            "\"a/b\" cannot be the name of a server that speaks TLS".to_owned(),
        ),
        (
            format!("{secure} --http2 --alpn http/1.1"),
            "invalid value 'http/1.1' for '--alpn <LIST>': with --http2 it has to offer h2"
                .to_owned(),
        ),
        (
            format!("{secure} --client-cert /nonexistent --client-key {empty}"),
            "invalid value '/nonexistent' for '--client-cert <FILE>': I/O error: No such file or \
             directory (os error 2)"
                .to_owned(),
        ),
        (
            format!("{secure} --client-cert {empty} --client-key {empty}"),
            format!(
                "invalid value '{empty}' for '--client-cert <FILE>': there is no certificate in it; \
                 expected PEM"
            ),
        ),
        (
            format!("{URL} --http2 --transports 0"),
            "invalid value '0' for '--transports <N>': expected a number from 1 to 1,000,000"
                .to_owned(),
        ),
        (
            format!("{URL} --http2 --raw-tcp"),
            "the argument '--http2' cannot be used with '--raw-tcp'".to_owned(),
        ),
    ] {
        assert_refused(&arguments, &message);
    }
    for (arguments, missing) in [
        (format!("{URL} --transports 2"), "--http2"),
        (format!("{secure} --client-cert {empty}"), "--client-key <FILE>"),
        (format!("{secure} --client-key {empty}"), "--client-cert <FILE>"),
    ] {
        let output = program(&arguments).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}: {stderr}");
        assert!(stderr.contains(missing), "{arguments}: {stderr}");
    }
    std::fs::remove_file(empty).unwrap();
}
