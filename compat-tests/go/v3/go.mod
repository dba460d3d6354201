// The module that compat-tests/go/app.go is built in for go-dqlite v3: scripts/go-suites.
module app

go 1.21

require github.com/canonical/go-dqlite/v3 v3.0.4

require (
	github.com/Rican7/retry v0.3.1 // indirect
	github.com/google/renameio v1.0.1 // indirect
	github.com/mattn/go-sqlite3 v1.14.7 // indirect
	github.com/pkg/errors v0.9.1 // indirect
	golang.org/x/sync v0.8.0 // indirect
	golang.org/x/sys v0.0.0-20211117180635-dee7805ff2e1 // indirect
	gopkg.in/yaml.v2 v2.4.0 // indirect
)
