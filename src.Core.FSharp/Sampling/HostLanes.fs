/// `Vectors` over the memory of host tensors that are in fp32 or bf16.
module internal Hybrid.HostLanes

// Memory is read and written by address.
#nowarn "9"
#nowarn "51"

open System
open System.Runtime.Intrinsics
open Microsoft.FSharp.NativeInterop
open Hybrid.Vectors

/// Numbers in one vector.
let inline count () : int = Lanes.Count

/// The 16-bit numbers at an address.
let halves (address: nativeint) = Vector512.Load(NativePtr.ofNativeInt<uint16> address)

/// The first `count` of the 2 · `count` numbers at an address.
let inline lower (half: bool) (address: nativeint) : Lanes =
    if half then
        widened (Vector512.WidenLower(halves address))
    else
        Vector512.Load(NativePtr.ofNativeInt<float32> address)

/// The other `count` of them.
let inline upper (half: bool) (address: nativeint) : Lanes =
    if half then
        widened (Vector512.WidenUpper(halves address))
    else
        Vector512.Load(NativePtr.ofNativeInt<float32>(address + nativeint (4 * count ())))

/// Where number i of a row of 2 · `count` numbers stands when the two vectors' numbers take turns, as `evens` and `odds` want it.
let slot (half: bool) (i: int) : int =
    if half then
        let row, i = i / (2 * count ()) * (2 * count ()), i % (2 * count ())
        row + (if i < count () then 2 * i else 2 * (i - count ()) + 1)
    else
        i

/// The first `count` of the 2 · `count` numbers of a row that is laid out by `slot`.
let inline evens (half: bool) (address: nativeint) : Lanes =
    if half then
        widened (Vector512.Load(NativePtr.ofNativeInt<uint32> address))
    else
        Vector512.Load(NativePtr.ofNativeInt<float32> address)

/// The other `count` of them.
let inline odds (half: bool) (address: nativeint) : Lanes =
    if half then
        Vector512.AsSingle(
            Vector512.BitwiseAnd(Vector512.Load(NativePtr.ofNativeInt<uint32> address), Vector512.Create 0xFFFF0000u)
        )
    else
        Vector512.Load(NativePtr.ofNativeInt<float32>(address + nativeint (4 * count ())))

/// Bytes of a number.
let inline size (half: bool) : int = if half then 2 else 4

/// The nearest bf16, to even; NaN stays NaN.
let roundedHalf (x: float32) : uint16 = if Single.IsNaN x then 0x7FC0us else narrowOne x

/// One number.
let inline get (half: bool) (address: nativeint) (index: int) : float32 =
    if half then
        widenOne (NativePtr.get (NativePtr.ofNativeInt<uint16> address) index)
    else
        NativePtr.get (NativePtr.ofNativeInt<float32> address) index

/// Writes one number, rounded to nearest.
let inline set (half: bool) (address: nativeint) (index: int) (value: float32) : unit =
    if half then
        NativePtr.set (NativePtr.ofNativeInt<uint16> address) index (roundedHalf value)
    else
        NativePtr.set (NativePtr.ofNativeInt<float32> address) index value

/// Reads numbers into fp32.
let read (half: bool) (source: nativeint) (target: nativeptr<float32>) (length: int) : unit =
    let whole = length / (2 * count ()) * (2 * count ())
    let mutable i = 0

    while i < whole do
        let place = source + nativeint (i * size half)
        Vector512.Store(lower half place, NativePtr.add target i)
        Vector512.Store(upper half place, NativePtr.add target (i + count ()))
        i <- i + 2 * count ()

    while i < length do
        NativePtr.set target i (get half source i)
        i <- i + 1

/// Writes fp32 numbers, rounded to nearest. They are finite.
let write (half: bool) (source: nativeptr<float32>) (target: nativeint) (length: int) : unit =
    let whole = length / (2 * count ()) * (2 * count ())
    let mutable i = 0

    while i < whole do
        let low = Vector512.Load(NativePtr.add source i)
        let high = Vector512.Load(NativePtr.add source (i + count ()))

        if half then
            Vector512.Store(
                Vector512.Narrow(narrowed low, narrowed high),
                NativePtr.ofNativeInt<uint16>(target + nativeint (2 * i))
            )
        else
            Vector512.Store(low, NativePtr.ofNativeInt<float32>(target + nativeint (4 * i)))
            Vector512.Store(high, NativePtr.ofNativeInt<float32>(target + nativeint (4 * (i + count ()))))

        i <- i + 2 * count ()

    while i < length do
        set half target i (NativePtr.get source i)
        i <- i + 1

/// eˣ for x ≤ 0, with a relative error below 2e-7; below −87 it is 0 to fp32.
let exp (x: Lanes) : Lanes =
    // x = n ln 2 + r, |r| ≤ ln 2 / 2, ln 2 in two parts; then the series of eʳ.
    let x = Vector512.Max(x, all -87.0f)
    let n = Vector512.Floor(Vector512.FusedMultiplyAdd(x, all 1.44269504f, all 0.5f))
    let r = Vector512.FusedMultiplyAdd(n, all -0.693359375f, x)
    let r = Vector512.FusedMultiplyAdd(n, all 2.12194440e-4f, r)
    let p = Vector512.FusedMultiplyAdd(all 1.9875691500e-4f, r, all 1.3981999507e-3f)
    let p = Vector512.FusedMultiplyAdd(p, r, all 8.3334519073e-3f)
    let p = Vector512.FusedMultiplyAdd(p, r, all 4.1665795894e-2f)
    let p = Vector512.FusedMultiplyAdd(p, r, all 1.6666665459e-1f)
    let p = Vector512.FusedMultiplyAdd(p, r, all 5.0000001201e-1f)
    let p = Vector512.Add(Vector512.FusedMultiplyAdd(p, Vector512.Multiply(r, r), r), Lanes.One)
    let power = Vector512.ShiftLeft(Vector512.Add(Vector512.ConvertToInt32 n, Vector512.Create 127), 23)
    Vector512.Multiply(p, Vector512.AsSingle power)

/// Σ of a vector's numbers.
let inline sum (x: Lanes) : float32 = Vector512.Sum x

/// The largest of a vector's numbers.
let largest (x: Lanes) : float32 =
    let mutable x = x
    let numbers = NativePtr.ofVoidPtr<float32>(NativePtr.toVoidPtr &&x)
    let mutable best = NativePtr.get numbers 0

    for i in 1 .. count () - 1 do
        best <- Single.MaxNative(best, NativePtr.get numbers i)

    best
