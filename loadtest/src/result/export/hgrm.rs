//! HdrHistogram's percentile distribution: the text that its `HistogramLogProcessor` prints and its
//! plotter reads (<https://hdrhistogram.github.io/HdrHistogram/plotFiles.html>), in milliseconds.
//!
//! Values have six decimals, which are nanoseconds, where other writers have three: a round trip on
//! one machine is a few hundredths of a millisecond.

use std::fmt::{self, Write};

use hdrhistogram::Histogram;

use super::NANOSECONDS_PER_MILLISECOND;

/// Steps for each halving of the distance to 100 %, as in HdrHistogram's own tools.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

pub(super) fn text(nanoseconds: &Histogram<u64>) -> String {
    let mut text = String::new();
    write(&mut text, nanoseconds).expect("a String takes everything");
    text
}

fn write(text: &mut String, nanoseconds: &Histogram<u64>) -> fmt::Result {
    let columns = ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"];
    writeln!(
        text,
        "{:>12} {:>14} {:>10} {:>14}\n",
        columns[0], columns[1], columns[2], columns[3]
    )?;
    let mut count = 0;
    for step in nanoseconds.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        count += step.count_since_last_iteration();
        let value = milliseconds(step.value_iterated_to());
        let quantile = step.quantile_iterated_to();
        write!(text, "{value:12.6} {quantile:2.12} {count:10}")?;
        if quantile < 1.0 {
            write!(text, " {:14.2}", 1.0 / (1.0 - quantile))?;
        }
        writeln!(text)?;
    }
    let mean = nanoseconds.mean() / NANOSECONDS_PER_MILLISECOND;
    let deviation = nanoseconds.stdev() / NANOSECONDS_PER_MILLISECOND;
    writeln!(text, "#[Mean    = {mean:12.6}, StdDeviation   = {deviation:12.6}]")?;
    let (max, total) = (milliseconds(nanoseconds.max()), nanoseconds.len());
    writeln!(text, "#[Max     = {max:12.6}, Total count    = {total:12}]")?;
    let buckets = nanoseconds.buckets();
    let sub_buckets = nanoseconds.distinct_values() * 2 / (usize::from(buckets) + 1);
    writeln!(text, "#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]")
}

#[expect(clippy::cast_precision_loss, reason = "latencies are below 2^52 nanoseconds")]
fn milliseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / NANOSECONDS_PER_MILLISECOND
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::count::latency::Latencies;

    #[test]
    fn text_is_laid_out_as_by_hdrhistograms_tools() {
        let mut latencies = Latencies::default();
        for microseconds in [30, 20, 10] {
            latencies.record(microseconds * 1000, 1);
        }
        assert_eq!(
            text(latencies.nanoseconds()),
            "       Value     Percentile TotalCount 1/(1-Percentile)\n\
             \n    0.010007 0.000000000000          1           1.00\
             \n    0.010007 0.100000000000          1           1.11\
             \n    0.010007 0.200000000000          1           1.25\
             \n    0.010007 0.300000000000          1           1.43\
             \n    0.020015 0.400000000000          2           1.67\
             \n    0.020015 0.500000000000          2           2.00\
             \n    0.020015 0.550000000000          2           2.22\
             \n    0.020015 0.600000000000          2           2.50\
             \n    0.020015 0.650000000000          2           2.86\
             \n    0.030015 0.700000000000          3           3.33\
             \n    0.030015 1.000000000000          3\
             \n#[Mean    =     0.020007, StdDeviation   =     0.008167]\
             \n#[Max     =     0.030015, Total count    =            3]\
             \n#[Buckets =           32, SubBuckets     =         2048]\n"
        );
    }
}
