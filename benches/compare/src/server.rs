//! The servers that are compared, and how each is started.

use std::path::PathBuf;

use serde::Serialize;
use thiserror::Error;

use crate::words::counted;

/// What a command's words are completed with.
const PORT: &str = "{port}";
const CPUS: &str = "{cpus}";

/// Where ringecho listens, without TLS and with it.
const LISTEN: &str = "127.0.0.1:{port}";
const TLS_LISTEN: &str = "tls+127.0.0.1:{port}";

/// Those whose cost is plotted by default: ours, the limits, and a library for everybody.
pub(crate) const SWEPT: [&str; 5] =
    ["ringecho-engine", "ringecho-portable", "tcp-uring", "tcp-epoll", "fastwebsockets-corked"];

/// A server that is to be compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Server {
    pub(crate) name: String,
    /// Its words, with placeholders.
    pub(crate) command: Vec<String>,
    /// Where it takes WebSocket connections.
    pub(crate) path: String,
    pub(crate) echo: Echo,
    /// Whether it speaks TLS.
    #[serde(rename = "tls")]
    pub(crate) is_tls: bool,
    /// The CPUs that it runs on.
    pub(crate) cpus: Vec<usize>,
    /// The CPUs that the generator runs on in its turns.
    pub(crate) generator_cpus: Vec<usize>,
    /// Its place in a sweep that varies the server: the name of its line, and where on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<(String, u32)>,
}

/// What comes back from a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Echo {
    /// The messages.
    Messages,
    /// The bytes that carried them: a raw TCP echo, or a TLS echo.
    Bytes,
}

/// Where the programs are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Programs {
    pub(crate) directory: PathBuf,
    /// The script of the echo server on node's ws, if there is one.
    pub(crate) node_ws: Option<PathBuf>,
}

/// Why a text names no further server.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ServerError {
    #[error("expected [tcp:]NAME[/PATH]=COMMAND, such as uws='./uws-echo {PORT}'")]
    Form,
    #[error("the command {0:?} has no {PORT}, so the server cannot be told where to listen")]
    PortMissing(String),
    #[error("the command {0:?} has a quotation mark that is never closed")]
    Quotation(String),
}

impl Server {
    fn new(name: &str, command: Vec<String>, path: &str, echo: Echo) -> Self {
        Self {
            name: name.to_owned(),
            command,
            path: path.to_owned(),
            echo,
            is_tls: false,
            cpus: Vec::new(),
            generator_cpus: Vec::new(),
            variant: None,
        }
    }

    /// The words of its command, for a server that listens on `port`.
    pub(crate) fn command_for(&self, port: u16) -> Vec<String> {
        let cpus: Vec<String> = self.cpus.iter().map(ToString::to_string).collect();
        let complete =
            |word: &String| word.replace(PORT, &port.to_string()).replace(CPUS, &cpus.join(","));
        self.command.iter().map(complete).collect()
    }

    /// CPUs on which the generator is in its way.
    pub(crate) fn shared_cpus(&self) -> impl Iterator<Item = usize> {
        self.cpus.iter().copied().filter(|cpu| self.generator_cpus.contains(cpu))
    }

    pub(crate) fn url(&self, port: u16) -> String {
        let scheme = if self.is_tls { "wss" } else { "ws" };
        format!("{scheme}://127.0.0.1:{port}{}", self.path)
    }

    /// The same server, which speaks TLS.
    pub(crate) fn over_tls(self) -> Self {
        Self { is_tls: true, ..self }
    }
}

/// A server as it is given on the command line: `[tcp:]NAME[/PATH]=COMMAND`.
pub(crate) fn parse(text: &str) -> Result<Server, ServerError> {
    let (name, command) = text.split_once('=').ok_or(ServerError::Form)?;
    let (echo, name) = match name.strip_prefix("tcp:") {
        Some(name) => (Echo::Bytes, name),
        None => (Echo::Messages, name),
    };
    let (name, path) = name.split_at(name.find('/').unwrap_or(name.len()));
    let path = if path.is_empty() { "/" } else { path };
    if name.is_empty() || name.contains([',', ' ']) {
        return Err(ServerError::Form);
    }
    let words = shlex::split(command).ok_or_else(|| ServerError::Quotation(command.to_owned()))?;
    if !words.iter().any(|word| word.contains(PORT)) {
        return Err(ServerError::PortMissing(command.to_owned()));
    }
    Ok(Server::new(name, words, path, echo))
}

/// ringecho as it is compared, by name and with its flags: the engine on the best that the kernel has,
/// the engine on epoll, and the portable path.
const RINGECHO: [(&str, [&str; 2]); 3] = [
    ("ringecho-engine", ["--data-plane", "engine"]),
    ("ringecho-epoll", ["--driver", "epoll"]),
    ("ringecho-portable", ["--data-plane", "portable"]),
];

/// ringecho, and the peers, the cheapest first.
pub(crate) fn built_in(programs: &Programs) -> Vec<Server> {
    let mut servers: Vec<_> =
        RINGECHO.iter().map(|(name, flags)| ringecho(programs, name, flags)).collect();
    for (name, echo) in [
        ("tcp-uring", Echo::Bytes),
        ("tcp-epoll", Echo::Bytes),
        ("tcp-monoio", Echo::Bytes),
        ("ws-epoll", Echo::Messages),
        ("fastwebsockets-corked", Echo::Messages),
        ("fastwebsockets-tokio", Echo::Messages),
        ("sockudo-ws", Echo::Messages),
        ("tokio-tungstenite", Echo::Messages),
    ] {
        let command = vec![programs.path(name), PORT.to_owned()];
        servers.push(Server::new(name, command, "/", echo));
    }
    if let Some(script) = &programs.node_ws {
        let command = vec!["node".into(), script.to_string_lossy().into_owned(), PORT.into()];
        servers.push(Server::new("node-ws", command, "/", Echo::Messages));
    }
    servers
}

/// What speaks TLS: ringecho, and the limit, which encrypts again what it has decrypted.
pub(crate) fn built_in_over_tls(programs: &Programs) -> Vec<Server> {
    let mut servers: Vec<_> = RINGECHO
        .iter()
        .map(|(name, flags)| {
            ringecho_on(&["--listen", TLS_LISTEN, "--tls-self-signed"], programs, name, flags)
        })
        .collect();
    let command = vec![programs.path("tls-echo"), PORT.to_owned()];
    servers.push(Server::new("tls-echo", command, "/", Echo::Bytes));
    servers.into_iter().map(Server::over_tls).collect()
}

/// ringecho with 1 worker to as many as there are CPUs, in each way. The generator has the
/// CPUs that are left, or shares one if none is.
pub(crate) fn with_workers(
    programs: &Programs,
    usable: &[usize],
    generator_cpu: usize,
) -> Vec<Server> {
    let mut servers = Vec::new();
    for (way, flags) in RINGECHO {
        for workers in 1..=usable.len() {
            let (cpus, rest) = usable.split_at(workers);
            let name = format!("{way}, {}", counted(workers, "worker"));
            let mut server = ringecho(programs, &name, &flags);
            server.cpus = cpus.to_vec();
            server.generator_cpus =
                if rest.is_empty() { vec![generator_cpu] } else { rest.to_vec() };
            server.variant = Some((way.to_owned(), workers as u32));
            servers.push(server);
        }
    }
    servers
}

/// ringecho's engine with shared receive buffers of different sizes and numbers.
pub(crate) fn with_buffers(
    programs: &Programs,
    server_cpu: usize,
    generator_cpu: usize,
) -> Vec<Server> {
    let mut servers = Vec::new();
    for buffers in [4, 16, 64] {
        for kibibytes in [16, 64, 256, 1024] {
            let name = format!("{buffers} buffers of {kibibytes} KiB");
            let flags = [
                "--data-plane=engine".to_owned(),
                format!("--receive-buffers={buffers}"),
                format!("--receive-buffer={kibibytes}KiB"),
            ];
            let mut server = ringecho(programs, &name, &flags.each_ref().map(|flag| &**flag));
            server.cpus = vec![server_cpu];
            server.generator_cpus = vec![generator_cpu];
            server.variant = Some((format!("{buffers} buffers"), kibibytes << 10));
            servers.push(server);
        }
    }
    servers
}

fn ringecho(programs: &Programs, name: &str, flags: &[&str]) -> Server {
    ringecho_on(&["--listen", LISTEN], programs, name, flags)
}

/// ringecho with a listener that these words make.
fn ringecho_on(listener: &[&str], programs: &Programs, name: &str, flags: &[&str]) -> Server {
    let mut command = vec![programs.path("ringecho")];
    let others = ["--cpus", CPUS, "--log-level", "warn"];
    command.extend(listener.iter().chain(&others).chain(flags).map(|word| (*word).to_owned()));
    Server::new(name, command, "/ws", Echo::Messages)
}

impl Programs {
    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.join(name).to_string_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_servers_are_read() {
        let server = parse("uws=./uws-echo {port}").unwrap();
        assert_eq!((&*server.name, &*server.path, server.echo), ("uws", "/", Echo::Messages));
        let server = parse("tcp:mine/echo/here=sh -c 'exec nc {port}' x=y").unwrap();
        assert_eq!((&*server.name, &*server.path), ("mine", "/echo/here"));
        assert_eq!(server.echo, Echo::Bytes);
        assert_eq!(server.command, ["sh", "-c", "exec nc {port}", "x=y"]);
    }

    #[test]
    fn what_names_no_server_is_refused() {
        for (text, error) in [
            ("uws", ServerError::Form),
            ("=./uws {port}", ServerError::Form),
            ("a,b=./uws {port}", ServerError::Form),
            ("uws=./uws 9001", ServerError::PortMissing("./uws 9001".into())),
            ("uws=./uws '{port}", ServerError::Quotation("./uws '{port}".into())),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn commands_are_completed() {
        let mut server = parse("mine/ws=./serve --on=:{port} --cpus={cpus} {port}").unwrap();
        server.cpus = vec![2, 3];
        assert_eq!(server.command_for(81), ["./serve", "--on=:81", "--cpus=2,3", "81"]);
        assert_eq!(server.url(81), "ws://127.0.0.1:81/ws");
    }

    #[test]
    fn servers_over_tls_listen_and_are_reached_so() {
        let servers = built_in_over_tls(&Programs::default());
        let urls: Vec<_> = servers.iter().map(|server| server.url(81)).collect();
        assert_eq!(urls.first().unwrap(), "wss://127.0.0.1:81/ws");
        assert_eq!(urls.last().unwrap(), "wss://127.0.0.1:81/");
        let command = servers[0].command_for(81).join(" ");
        assert!(command.contains("--listen tls+127.0.0.1:81 --tls-self-signed"), "{command}");
    }

    #[test]
    fn the_generator_keeps_off_the_workers_cpus_while_there_are_others() {
        let servers = with_workers(&Programs::default(), &[0, 1, 5], 5);
        let cpus: Vec<_> = servers[..3]
            .iter()
            .map(|server| (&server.cpus[..], &server.generator_cpus[..]))
            .collect();
        let expected: [(&[usize], &[usize]); 3] =
            [(&[0], &[1, 5]), (&[0, 1], &[5]), (&[0, 1, 5], &[5])];
        assert_eq!(cpus, expected);
    }
}
