module Hybrid.Tests.TorchWriterTests

open System
open System.Collections.Generic
open System.IO
open System.IO.Compression
open System.Text
open Expecto
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport
open TorchSharp

let private types =
    [
        torch.ScalarType.Float32
        torch.ScalarType.BFloat16
        torch.ScalarType.Float16
        torch.ScalarType.Float64
        torch.ScalarType.Int64
        torch.ScalarType.Int32
        torch.ScalarType.Int16
        torch.ScalarType.Int8
        torch.ScalarType.Byte
        torch.ScalarType.Bool
    ]

/// Tensors of every type and of odd shapes; the seed decides the values.
let private tensors (seed: int) =
    [
        for i, kind in List.indexed types do
            for j, shape in List.indexed [ [ 3L; 5L ]; [ 7L ]; []; [ 0L; 4L ]; [ 1L; 1L; 2L ] ] do
                $"layers.{i}.w{j}", kind, shape, seed + 10 * i + j
    ]

let private sources (seed: int) : IReadOnlyList<TensorSource> =
    [|
        for name, kind, shape, seed in tensors seed ->
            TensorSource(name, kind, List.toArray shape, (fun () -> tensorOf kind shape seed))
    |]

let private shares: IReadOnlyList<KeyValuePair<string, string>> = [| KeyValuePair("again", "layers.0.w0") |]

let private bytesOf (tensor: torch.Tensor) = tensor.bytes.ToArray()

let private check (path: string) (seed: int) =
    use file = TorchFile.Open path
    Expect.equal (Seq.length file.Entries.Keys) (List.length (tensors seed) + 1) "tensors"

    for name, kind, shape, seed in tensors seed do
        use expected = tensorOf kind shape seed
        use found = file.Load name
        Expect.equal found.dtype kind name
        Expect.equal found.shape (List.toArray shape) name
        Expect.equal (bytesOf found) (bytesOf expected) name

    use again = file.Load "again"
    use first = file.Load "layers.0.w0"
    Expect.equal (bytesOf again) (bytesOf first) "the shared one"
    Expect.equal file.Metadata["name"] "a räme" "name"
    Expect.equal file.Metadata["epoch"] "5000000000" "epoch"

/// Offsets of the data of every entry, read from the local headers by themselves.
let private dataOffsets (bytes: byte[]) (count: int) =
    let mutable at = 0

    [
        for _ in 1..count do
            Expect.equal (BitConverter.ToUInt32(bytes, at)) 0x04034b50u "a local header"
            let name = int (BitConverter.ToUInt16(bytes, at + 26))
            let extra = int (BitConverter.ToUInt16(bytes, at + 28))
            let data = at + 30 + name + extra
            let length = int (BitConverter.ToUInt32(bytes, at + 22))
            at <- data + length
            data
    ]

let tests =
    testList
        "TorchWriter"
        [
            testCase "the checksum is zip's" (fun () ->
                let checksum (bytes: byte[]) =
                    let mutable crc = Crc32()
                    // In pieces of odd lengths.
                    for piece in Array.chunkBySize 13 bytes do
                        crc.Add(ReadOnlySpan piece)

                    crc.Value

                Expect.equal (checksum (Encoding.ASCII.GetBytes "123456789")) 0xCBF43926u "the usual example"

                for count in [ 0; 1; 7; 8; 9; 1000 ] do
                    let bytes = Array.init count (fun i -> byte (i * 31 + i / 7))
                    use stream = new MemoryStream()
                    using (new GZipStream(stream, CompressionLevel.Fastest, true)) (fun gzip -> gzip.Write(bytes, 0, count))
                    let zipped = stream.ToArray()

                    if zipped.Length > 8 then
                        Expect.equal
                            (checksum bytes)
                            (BitConverter.ToUInt32(zipped, zipped.Length - 8))
                            $"{count} bytes as gzip has it")

            testCase "every type and shape comes back, shared memory too" (fun () ->
                inFolder (fun folder ->
                    let path = Path.Combine(folder, "epoch_3.pt")
                    TorchWriter.Write(path, 5_000_000_000L, "a räme", sources 1, shares)
                    check path 1))

            testCase "entries are torch's, uncompressed, at multiples of 64, with the right checksums" (fun () ->
                inFolder (fun folder ->
                    let path = Path.Combine(folder, "epoch_3.pt")
                    TorchWriter.Write(path, 5_000_000_000L, "a räme", sources 2, shares)
                    let bytes = File.ReadAllBytes path
                    use zip = ZipFile.OpenRead path
                    let names = [ for entry in zip.Entries -> entry.FullName ]
                    let storages = [ for i in 0 .. (sources 2).Count - 1 -> $"epoch_3/data/{i}" ]

                    Expect.equal
                        names
                        ([ "data.pkl"; ".format_version"; ".storage_alignment"; "byteorder" ]
                         |> List.map (fun n -> "epoch_3/" + n)
                         |> fun first -> first @ storages @ [ "epoch_3/version"; "epoch_3/.data/serialization_id" ])
                        "names"

                    for offset in dataOffsets bytes names.Length do
                        Expect.equal (offset % 64) 0 "alignment"

                    for entry in zip.Entries do
                        Expect.equal entry.CompressedLength entry.Length "stored"
                        use stream = entry.Open()
                        use content = new MemoryStream()
                        stream.CopyTo content
                        let mutable crc = Crc32()
                        crc.Add(ReadOnlySpan(content.ToArray()))
                        Expect.equal entry.Crc32 crc.Value entry.FullName))

            testCase "zip64 fields, as above 4 GB" (fun () ->
                for large in [ 0u; 40u; 200u; 3000u ] do
                    inFolder (fun folder ->
                        let path = Path.Combine(folder, "epoch_3.pt")
                        TorchWriter.Write(path, 5_000_000_000L, "a räme", sources 3, shares, large)
                        check path 3
                        use zip = ZipFile.OpenRead path

                        for entry in zip.Entries do
                            use stream = entry.Open()
                            use content = new MemoryStream()
                            stream.CopyTo content
                            Expect.equal content.Length entry.Length entry.FullName))

            testCase "what fails midway leaves nothing" (fun () ->
                inFolder (fun folder ->
                    let path = Path.Combine(folder, "epoch_3.pt")

                    let broken =
                        TensorSource(
                            "w",
                            torch.ScalarType.Float32,
                            [| 2L |],
                            (fun () -> raise (Hybrid.InputException "no such luck"))
                        )

                    Expect.throws
                        (fun () -> TorchWriter.Write(path, 5_000_000_000L, "a räme", [| broken |], [||]))
                        "the failure"

                    Expect.isEmpty (Directory.GetFileSystemEntries folder) "nothing is there"))
        ]
