/// The checkout that the tests run in.
module Hybrid.Tests.Repository

open System
open System.IO

/// Its root, where Hybrid.sln is.
let root: string =
    let rec up (folder: DirectoryInfo | null) =
        match folder with
        | null -> invalidOp "the tests do not run inside the repository"
        | folder when File.Exists(Path.Combine(folder.FullName, "Hybrid.sln")) -> folder.FullName
        | folder -> up folder.Parent

    up (DirectoryInfo AppContext.BaseDirectory)
