//! The extensions that a client offers: the `Sec-WebSocket-Extensions` header of its request (RFC
//! 6455 §9.1). Pure, and strict: a header outside of the grammar is malformed.

use super::token::is_token_byte;

/// An extension that a client offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer<'a> {
    /// The extension's name.
    pub name: &'a str,
    /// The extension's parameters, in the client's order.
    pub parameters: Vec<Parameter<'a>>,
}

/// A parameter of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter<'a> {
    /// The parameter's name.
    pub name: &'a str,
    /// The parameter's value, if it has one: a token, without the quotes that may have enclosed it.
    pub value: Option<String>,
}

/// The header does not have the form of a list of extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The offers in one header, the client's favourite first.
///
/// Elements of the list may be empty (RFC 9110 §5.6.1.2). The grammar wants one that is not, but a
/// list without any is accepted: Python's `websockets` sends an empty header when it has nothing to
/// offer.
pub fn parse_offers(header: &str) -> Result<Vec<Offer<'_>>, Malformed> {
    let mut scanner = Scanner { rest: header };
    let mut offers = Vec::new();
    loop {
        while scanner.accept(',') {}
        if scanner.is_at_end() {
            return Ok(offers);
        }
        offers.push(scanner.offer()?);
        if !scanner.is_at_end() && !scanner.accept(',') {
            return Err(Malformed);
        }
    }
}

/// The text that has not been read yet. White space may stand before each part (§9.1, "implied
/// *LWS").
struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    /// `extension = extension-token *( ";" extension-param )`
    fn offer(&mut self) -> Result<Offer<'a>, Malformed> {
        let name = self.token()?;
        let mut parameters = Vec::new();
        while self.accept(';') {
            parameters.push(self.parameter()?);
        }
        Ok(Offer { name, parameters })
    }

    /// `extension-param = token [ "=" (token | quoted-string) ]`
    fn parameter(&mut self) -> Result<Parameter<'a>, Malformed> {
        let name = self.token()?;
        let value = if !self.accept('=') {
            None
        } else if self.accept('"') {
            Some(self.quoted_token()?)
        } else {
            Some(self.token()?.to_owned())
        };
        Ok(Parameter { name, value })
    }

    fn token(&mut self) -> Result<&'a str, Malformed> {
        self.skip_white_space();
        let end = self.rest.bytes().position(|byte| !is_token_byte(byte));
        let (token, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        if token.is_empty() { Err(Malformed) } else { Ok(token) }
    }

    /// Reads the token behind an opening quote, and the closing quote.
    fn quoted_token(&mut self) -> Result<String, Malformed> {
        let mut token = String::new();
        let mut bytes = self.rest.bytes();
        loop {
            let byte = match bytes.next() {
                Some(b'"') => break,
                Some(b'\\') => bytes.next(),
                other => other,
            };
            //= https://www.rfc-editor.org/rfc/rfc6455#section-9.1
            //# When using the quoted-string syntax variant, the value
            //# after quoted-string unescaping MUST conform to the
            //# 'token' ABNF.
            token.push(byte.filter(|byte| is_token_byte(*byte)).ok_or(Malformed)?.into());
        }
        self.rest = &self.rest[self.rest.len() - bytes.len()..];
        if token.is_empty() { Err(Malformed) } else { Ok(token) }
    }

    fn accept(&mut self, separator: char) -> bool {
        self.skip_white_space();
        let rest = self.rest.strip_prefix(separator);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn is_at_end(&mut self) -> bool {
        self.skip_white_space();
        self.rest.is_empty()
    }

    fn skip_white_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offers as `name|parameter|parameter=value`.
    fn parsed(header: &str) -> Result<Vec<String>, Malformed> {
        let parameter = |parameter: &Parameter| match &parameter.value {
            Some(value) => format!("|{}={value}", parameter.name),
            None => format!("|{}", parameter.name),
        };
        let offer = |offer: &Offer| {
            offer.name.to_owned() + &offer.parameters.iter().map(parameter).collect::<String>()
        };
        Ok(parse_offers(header)?.iter().map(offer).collect())
    }

    #[test]
    fn lists_of_extensions_are_read() {
        for (header, expected) in [
            // The examples of RFC 6455 §9.1.
            ("foo", &["foo"][..]),
            ("bar; baz=2", &["bar|baz=2"]),
            ("foo, bar; baz=2", &["foo", "bar|baz=2"]),
            ("deflate-stream", &["deflate-stream"]),
            (
                "mux; max-channels=4; flow-control, deflate-stream",
                &["mux|max-channels=4|flow-control", "deflate-stream"],
            ),
            ("private-extension", &["private-extension"]),
            // White space, empty elements, repetition.
            (" \tfoo\t;a =\t1 ;b,,\t, foo;a", &["foo|a=1|b", "foo|a"]),
            (",foo,", &["foo"]),
            ("", &[]),
            (" , ,", &[]),
            // Quotes.
            ("foo; a=\"10\"; b=\"x\\y\"", &["foo|a=10|b=xy"]),
        ] {
            assert_eq!(parsed(header).unwrap(), expected, "{header:?}");
        }
    }

    //= https://www.rfc-editor.org/rfc/rfc6455#section-9.1
    //= type=test
    //# If a value is received by either the
    //# client or the server during negotiation that does not conform to the
    //# ABNF below, the recipient of such malformed data MUST immediately
    //# _Fail the WebSocket Connection_.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-9.1
    //= type=test
    //# When using the quoted-string syntax variant, the value after quoted-string unescaping MUST
    //# conform to the 'token' ABNF.
    #[test]
    fn what_the_grammar_does_not_have_is_malformed() {
        for header in [
            ";",
            "foo;",
            "foo;;a",
            "foo;,",
            "foo bar",
            "foo=1",
            "=1",
            "foo;=1",
            "foo;a=",
            "foo;a=,",
            "foo;a==1",
            "foo;a=1=2",
            "foo;a=1 2",
            "foo;a\"1\"",
            "foo;a=\"",
            "foo;a=\"1",
            "foo;a=\"\"",
            "foo;a=\"1 2\"",
            "foo;a=\"1\\\"",
            "foo;a=\"é\"",
            "foo;a=\"1\"2",
            "foo;a=(1)",
            "f(o)o",
            "\"foo\"",
            "foo/1",
            "föö",
            "foo\u{b}",
        ] {
            assert_eq!(parsed(header), Err(Malformed), "{header:?}");
        }
    }
}
