namespace Hybrid.Tests

open System
open System.IO

/// A folder of a test's own, gone when the test ends.
[<Sealed>]
type Folder() =
    let root = Directory.CreateTempSubdirectory("hybrid-test-").FullName

    /// A path in the folder.
    member _.At(name: string) : string = Path.Combine(root, name)

    /// A text file in the folder; its path.
    member folder.Write(name: string, text: string) : string =
        let path = folder.At name
        File.WriteAllText(path, text)
        path

    interface IDisposable with
        member _.Dispose() = Directory.Delete(root, true)
