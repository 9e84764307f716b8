/// Randomness as an argument: every random value is a pure function of a seed, the name of its stream and a position,
/// so that it is the same on every machine, in any order and on any number of threads. No global generator exists.
module Hybrid.Random

open System

/// A named stream of random values.
[<Struct>]
type Stream =
    {
        /// 64 bits that seed, names and numbers were mixed into
        Key: uint64
    }

/// SplitMix64's finaliser (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014).
let inline private mix (x: uint64) =
    let x = (x ^^^ (x >>> 30)) * 0xBF58476D1CE4E5B9UL
    let x = (x ^^^ (x >>> 27)) * 0x94D049BB133111EBUL
    x ^^^ (x >>> 31)

let private golden = 0x9E3779B97F4A7C15UL

/// The root stream of a seed.
let ofSeed (seed: int64) : Stream = { Key = mix (uint64 seed + golden) }

/// The child stream with a name: children of different names are independent of each other and of their parent.
let named (name: string) (stream: Stream) : Stream =
    let mutable key = stream.Key

    for character in name do
        key <- mix ((key ^^^ uint64 character) + golden)

    { Key = mix (key + golden) }

/// The child stream with a number.
let numbered (number: int64) (stream: Stream) : Stream =
    { Key = mix (mix (stream.Key ^^^ 0xD1B54A32D192ED03UL) + uint64 number * golden) }

/// The 64 random bits at a position of the stream.
let bits (stream: Stream) (position: int64) : uint64 = mix (stream.Key + (uint64 position + 1UL) * golden)

/// A uniform value in [0, 1) with 53 random bits.
let uniform (stream: Stream) (position: int64) : float = float (bits stream position >>> 11) * (1.0 / 9007199254740992.0)

/// A uniform integer in [0, count). Its bias is below count / 2^64.
let below (count: int) (stream: Stream) (position: int64) : int = int (Math.BigMul(bits stream position, uint64 count) >>> 64)

/// Natural logarithm by argument reduction and the series of artanh: only IEEE additions, multiplications and divisions,
/// so its bits do not depend on the C library. Relative error below 4e-16 for normal positive x.
let private logarithm (x: float) =
    let raw = BitConverter.DoubleToInt64Bits x
    let exponent = int ((raw >>> 52) &&& 0x7FFL) - 1023

    let mantissa = BitConverter.Int64BitsToDouble((raw &&& 0xFFFFFFFFFFFFFL) ||| 0x3FF0000000000000L)

    // mantissa in [1, 2) -> [sqrt(1/2), sqrt 2)
    let struct (m, e) =
        if mantissa > 1.4142135623730951 then
            struct (mantissa / 2.0, exponent + 1)
        else
            struct (mantissa, exponent)

    let z = (m - 1.0) / (m + 1.0)
    let z2 = z * z
    let mutable sum = 0.0

    for k = 12 downto 0 do
        sum <- sum * z2 + 1.0 / float (2 * k + 1)

    2.0 * z * sum + float e * 0.6931471805599453

let inline private horner (coefficients: float[]) (x: float) =
    let mutable sum = 0.0

    for k = coefficients.Length - 1 downto 0 do
        sum <- sum * x + coefficients[k]

    sum

// Algorithm AS 241 (Wichura 1988), PPND16: coefficients from the constant term upwards.
let private centralNumerator =
    [|
        3.3871328727963666080
        133.14166789178437745
        1971.5909503065514427
        13731.693765509461125
        45921.953931549871457
        67265.770927008700853
        33430.575583588128105
        2509.0809287301226727
    |]

let private centralDenominator =
    [|
        1.0
        42.313330701600911252
        687.18700749205790830
        5394.1960214247511077
        21213.794301586595867
        39307.895800092710610
        28729.085735721942674
        5226.4952788528545610
    |]

let private middleNumerator =
    [|
        1.42343711074968357734
        4.63033784615654529590
        5.76949722146069140550
        3.64784832476320460504
        1.27045825245236838258
        0.241780725177450611770
        0.0227238449892691845833
        7.74545014278341407640e-4
    |]

let private middleDenominator =
    [|
        1.0
        2.05319162663775882187
        1.67638483018380384940
        0.689767334985100004550
        0.148103976427480074590
        0.0151986665636164571966
        5.47593808499534494600e-4
        1.05075007164441684324e-9
    |]

let private tailNumerator =
    [|
        6.65790464350110377720
        5.46378491116411436990
        1.78482653991729133580
        0.296560571828504891230
        0.0265321895265761230930
        0.00124266094738807843860
        2.71155556874348757815e-5
        2.01033439929228813265e-7
    |]

let private tailDenominator =
    [|
        1.0
        0.599832206555887937690
        0.136929880922735805310
        0.0148753612908506148525
        7.86869131145613259100e-4
        1.84631831751005468180e-5
        1.42151175831644588870e-7
        2.04426310338993978564e-15
    |]

/// The standard normal quantile of p in (0, 1): Wichura's AS 241, relative error about 1e-16.
let normalQuantile (p: float) : float =
    let q = p - 0.5

    if abs q <= 0.425 then
        let r = 0.180625 - q * q
        q * horner centralNumerator r / horner centralDenominator r
    else
        let r = sqrt (-(logarithm (if q < 0.0 then p else 1.0 - p)))

        let value =
            if r <= 5.0 then
                horner middleNumerator (r - 1.6) / horner middleDenominator (r - 1.6)
            else
                horner tailNumerator (r - 5.0) / horner tailDenominator (r - 5.0)

        if q < 0.0 then -value else value

/// A standard normal value.
let normal (stream: Stream) (position: int64) : float =
    normalQuantile ((float (bits stream position >>> 11) + 0.5) * (1.0 / 9007199254740992.0))

/// A standard normal value truncated to [-cut, cut], by the quantile of the truncated distribution.
/// `mass` is the probability below -cut (see `tailMass`).
let private truncated (mass: float) (stream: Stream) (position: int64) =
    normalQuantile (mass + (1.0 - 2.0 * mass) * ((float (bits stream position >>> 11) + 0.5) * (1.0 / 9007199254740992.0)))

/// P(Z < -3) of a standard normal Z.
let private belowMinusThree = 0.0013498980316300946

/// Fills an array with deviation · Z, Z standard normal truncated to three deviations: open_lm's initialisation.
let fillTruncatedNormal (deviation: float) (stream: Stream) (values: Span<float32>) =
    for i = 0 to values.Length - 1 do
        values[i] <- float32 (deviation * truncated belowMinusThree stream (int64 i))

/// The permuted index at a position of a seeded permutation of [0, count): a pure function of (count, stream, position) that
/// needs no table, by cycle walking over a four-round Feistel network (Black & Rogaway 2002).
/// Errors: ArgumentOutOfRangeException unless 0 <= position < count.
let permuted (count: int64) (stream: Stream) (position: int64) : int64 =
    if position < 0L || position >= count then
        raise (ArgumentOutOfRangeException(nameof position, $"position {position} is outside [0, {count})"))

    let mutable half = 1

    // 32 bits a half reach every count; a larger shift would wrap.
    while half < 32 && (1L <<< (2 * half)) < count do
        half <- half + 1

    let mask = (1UL <<< half) - 1UL

    let scramble (x: uint64) =
        let mutable left = x >>> half
        let mutable right = x &&& mask

        for round = 0 to 3 do
            let next = left ^^^ (mix (stream.Key + right * golden + uint64 round * 0xA0761D6478BD642FUL) &&& mask)
            left <- right
            right <- next

        (left <<< half) ||| right

    let mutable x = scramble (uint64 position)

    while x >= uint64 count do
        x <- scramble x

    int64 x
