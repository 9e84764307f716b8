module Hybrid.Tests.Main

open Expecto

[<EntryPoint>]
let main arguments =
    runTestsWithCLIArgs [] arguments (testList "all" [ ImageTokenizerTests.tests; ImageTokenizerGoldenTests.tests ])
