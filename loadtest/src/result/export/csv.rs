//! A run second by second, as comma-separated values (RFC 4180, but with line feeds alone): a row
//! for each second of the measured window, with an empty field where there is no value.

use std::{
    fmt::Write,
    time::{Duration, UNIX_EPOCH},
};

use crate::{
    count::{
        latency_report::LatencyReport,
        timeline::{Recording, Second},
    },
    plan::Exchange,
};

/// The names of the columns.
fn header(exchange: Exchange, layers: &[Layer]) -> String {
    let (plural, samples, beside) = match exchange {
        Exchange::Message => ("messages", "latency_samples", ["uncorrected", "send_lag"]),
        Exchange::Cycle => ("cycles", "cycle_samples", ["handshake", "begin_lag"]),
    };
    let mut header = format!(
        "second,unix_time,length_seconds,{plural},{plural}_per_second,errors,{samples},\
         p50_us,p90_us,p99_us,p99_9_us,p99_99_us,max_us"
    );
    let layers = layers.iter().map(|(name, _)| *name);
    for name in beside.into_iter().chain(layers) {
        write!(header, ",{name}_p50_us,{name}_p99_us,{name}_max_us")
            .expect("a String takes everything");
    }
    header
}

/// A layer's name, and its place among the times of a second.
type Layer = (&'static str, usize);

/// The layers below WebSocket connections that times were measured of.
fn layers(recording: &Recording) -> Vec<Layer> {
    let all = recording.total.histograms.of_layers().into_iter().zip(0..);
    let measured = all.filter(|((_, times), _)| times.samples() > 0);
    measured.map(|((name, _), at)| (name, at)).collect()
}

pub(super) fn text(recording: &Recording, exchange: Exchange) -> String {
    let layers = layers(recording);
    let mut text = header(exchange, &layers) + "\n";
    let began = recording.began.duration_since(UNIX_EPOCH).unwrap_or_default();
    for (start, length, second) in recording.timed_seconds() {
        let number = start.as_secs();
        let unix_time = (began + start).as_secs_f64();
        let row = row(exchange, &layers, number, unix_time, length, second);
        writeln!(text, "{}", row.join(",")).expect("a String takes everything");
    }
    text
}

fn row(
    exchange: Exchange,
    layers: &[Layer],
    number: u64,
    unix_time: f64,
    length: Duration,
    second: &Second,
) -> Vec<String> {
    let latency = second.latency_us.as_ref();
    let mut row = vec![
        number.to_string(),
        format!("{unix_time:.3}"),
        format!("{:.3}", length.as_secs_f64()),
        second.exchanges.to_string(),
        format!("{:.1}", second.exchanges_per_second(length)),
        second.errors.total.to_string(),
        latency.map_or(0, |latency| latency.samples).to_string(),
    ];
    let mut push =
        |value: Option<f64>| row.push(value.map_or_else(String::new, |us| us.to_string()));
    let of_latency: [fn(&LatencyReport) -> f64; 6] =
        [|it| it.p50, |it| it.p90, |it| it.p99, |it| it.p99_9, |it| it.p99_99, |it| it.max];
    for value in of_latency {
        push(latency.map(value));
    }
    let beside = match exchange {
        Exchange::Message => &second.uncorrected_latency_us,
        Exchange::Cycle => &second.handshake_us,
    };
    let of_layers = layers.iter().map(|(_, at)| &second.layers_us[*at]);
    for times in [beside, &second.lag_us].into_iter().chain(of_layers) {
        let of_others: [fn(&LatencyReport) -> f64; 3] = [|it| it.p50, |it| it.p99, |it| it.max];
        for value in of_others {
            push(times.as_ref().map(value));
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::count::timeline::examples;

    #[test]
    fn each_second_is_a_row_with_as_many_fields_as_the_header() {
        let text = text(&examples::recording(), Exchange::Message);
        let rows: Vec<Vec<&str>> = text.lines().map(|row| row.split(',').collect()).collect();
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{text}");
        assert_eq!(
            rows[1..],
            [
                "0,1767225600.250,1.000,3,3.0,0,3,30.02,30.02,30.02,30.02,30.02,30.02,,,,,,",
                "1,1767225601.250,1.000,0,0.0,2,0,,,,,,,,,,,,",
                "2,1767225602.250,0.500,1,2.0,0,1,40.03,40.03,40.03,40.03,40.03,40.03,,,,,,"
            ]
            .map(|row| row.split(',').collect::<Vec<&str>>())
        );
    }

    #[test]
    fn layers_that_were_there_have_columns_behind_the_others() {
        let header = header(Exchange::Message, &[("tls", 0), ("http2_stream", 2)]);
        assert!(
            header.ends_with(
                ",send_lag_max_us,tls_p50_us,tls_p99_us,tls_max_us,\
                 http2_stream_p50_us,http2_stream_p99_us,http2_stream_max_us"
            ),
            "{header}"
        );
    }

    #[test]
    fn columns_are_named_for_what_the_load_was_of() {
        let [messages, cycles] = [Exchange::Message, Exchange::Cycle].map(|it| header(it, &[]));
        assert_eq!(
            messages,
            "second,unix_time,length_seconds,messages,messages_per_second,errors,latency_samples,\
             p50_us,p90_us,p99_us,p99_9_us,p99_99_us,max_us,\
             uncorrected_p50_us,uncorrected_p99_us,uncorrected_max_us,\
             send_lag_p50_us,send_lag_p99_us,send_lag_max_us"
        );
        assert_eq!(
            cycles,
            "second,unix_time,length_seconds,cycles,cycles_per_second,errors,cycle_samples,\
             p50_us,p90_us,p99_us,p99_9_us,p99_99_us,max_us,\
             handshake_p50_us,handshake_p99_us,handshake_max_us,\
             begin_lag_p50_us,begin_lag_p99_us,begin_lag_max_us"
        );
    }
}
