// A Go application's life on libdqlite, with go-dqlite as Debian packages it: three nodes that talk TLS,
// or whose connections the application makes, roles, large queries, leadership that moves within a
// transaction, handover, and a node that comes back to a log that has been cut.
//
//	app DIR    an empty directory; prints a line for each part that held
//
// Its ports are fixed: to be run in a network of its own.
package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/pem"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	dqlite "github.com/canonical/go-dqlite"
	"github.com/canonical/go-dqlite/app"
	"github.com/canonical/go-dqlite/client"
	"github.com/canonical/go-dqlite/driver"
)

func must(err error) {
	if err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
}

func check(holds bool, format string, a ...interface{}) {
	if !holds {
		log.Output(2, fmt.Sprintf(format, a...))
		os.Exit(1)
	}
}

func soon() context.Context {
	ctx, _ := context.WithTimeout(context.Background(), time.Minute)
	return ctx
}

// A certificate for 127.0.0.1 that signs itself.
func certificate() (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "cluster"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:              []string{"cluster"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(err)
	parsed, err := x509.ParseCertificate(der)
	must(err)
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

type cluster struct {
	dir     string
	options func(n int) []app.Option
	apps    [4]*app.App // 1 to 3
}

func address(n int) string { return fmt.Sprintf("127.0.0.1:%d", 9000+n) }

func (c *cluster) start(n int) {
	dir := filepath.Join(c.dir, fmt.Sprint(n))
	must(os.MkdirAll(dir, 0o700))
	options := append(c.options(n), app.WithAddress(address(n)))
	if n > 1 {
		options = append(options, app.WithCluster([]string{address(1)}))
	}
	a, err := app.New(dir, options...)
	must(err)
	must(a.Ready(soon()))
	c.apps[n] = a
}

func (c *cluster) startAll() {
	for n := 1; n <= 3; n++ {
		c.start(n)
	}
	c.waitVoters(3)
}

func (c *cluster) leader(via int) (*client.Client, *client.NodeInfo) {
	cli, err := c.apps[via].Leader(soon())
	must(err)
	info, err := cli.Leader(soon())
	must(err)
	check(info != nil, "no leader")
	return cli, info
}

// The members' roles change in rounds: waits until so many are voters.
func (c *cluster) waitVoters(count int) {
	end := time.Now().Add(time.Minute)
	for {
		cli, _ := c.leader(1)
		members, err := cli.Cluster(soon())
		must(err)
		must(cli.Close())
		voters := 0
		for _, member := range members {
			if member.Role == client.Voter {
				voters++
			}
		}
		if voters == count {
			return
		}
		check(time.Now().Before(end), "%d voters: %v", voters, members)
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *cluster) closeAll(count int) {
	for n := 1; n <= count; n++ {
		must(c.apps[n].Close())
	}
}

func execute(db *sql.DB, text string, a ...interface{}) {
	_, err := db.ExecContext(soon(), text, a...)
	must(err)
}

func number(db *sql.DB, text string) (n int64) {
	must(db.QueryRowContext(soon(), text).Scan(&n))
	return
}

func overTLS(dir string) {
	cert, pool := certificate()
	c := &cluster{dir: dir, options: func(int) []app.Option {
		return []app.Option{
			app.WithTLS(app.SimpleTLSConfig(cert, pool)),
			app.WithRolesAdjustmentFrequency(time.Second),
			app.WithSnapshotParams(dqlite.SnapshotParams{Threshold: 16, Trailing: 32}),
		}
	}}
	c.startAll()
	db, err := c.apps[2].Open(soon(), "data")
	must(err)
	execute(db, "CREATE TABLE numbers (n INTEGER PRIMARY KEY, text TEXT)")
	fmt.Println("--- PASS: three voters over TLS")

	// Rows that fill many responses, and a value that fills many pages.
	const rows = 20000
	execute(db, `INSERT INTO numbers WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r LIMIT 20000)
		SELECT n, 'the text of row ' || n FROM r`)
	result, err := db.QueryContext(soon(), "SELECT n, text FROM numbers ORDER BY n")
	must(err)
	next := 1
	for result.Next() {
		var n int
		var text string
		must(result.Scan(&n, &text))
		check(n == next && text == fmt.Sprint("the text of row ", n), "row %d is %d, %q", next, n, text)
		next++
	}
	must(result.Err())
	must(result.Close())
	check(next == rows+1, "%d rows", next-1)
	large := make([]byte, 1<<20)
	_, err = rand.Read(large)
	must(err)
	execute(db, "CREATE TABLE blobs (b BLOB)")
	execute(db, "INSERT INTO blobs VALUES (?)", large)
	var got []byte
	must(db.QueryRowContext(soon(), "SELECT b FROM blobs").Scan(&got))
	check(string(got) == string(large), "a blob came back other than it went")
	fmt.Println("--- PASS: a query of 20000 rows and a blob of 1 MiB")

	// What a transaction has done is void when leadership moves before its end.
	tx, err := db.BeginTx(soon(), nil)
	must(err)
	_, err = tx.ExecContext(soon(), "INSERT INTO numbers VALUES (-1, 'void')")
	must(err)
	cli, before := c.leader(1)
	other := before.ID
	members, err := cli.Cluster(soon())
	must(err)
	for _, member := range members {
		if member.ID != before.ID && member.Role == client.Voter {
			other = member.ID
		}
	}
	must(cli.Transfer(soon(), other))
	must(cli.Close())
	_, err = tx.ExecContext(soon(), "INSERT INTO numbers VALUES (-2, 'void')")
	committed := tx.Commit()
	check(err != nil || committed != nil, "a transaction outlived its leader")
	cli, after := c.leader(1)
	must(cli.Close())
	check(after.ID == other, "%d leads, not %d", after.ID, other)
	check(number(db, "SELECT count(*) FROM numbers WHERE n < 0") == 0, "half a transaction is there")
	execute(db, "INSERT INTO numbers VALUES (-3, 'on the new leader')")
	fmt.Println("--- PASS: a transaction ends with its leader")

	// The leader hands over and goes; so many entries follow that it needs a snapshot to come back.
	gone := 0
	for n := 1; n <= 3; n++ {
		if c.apps[n].ID() == after.ID {
			gone = n
		}
	}
	must(c.apps[gone].Handover(soon()))
	must(c.apps[gone].Close())
	left := gone%3 + 1
	if gone == 2 {
		must(db.Close())
		db, err = c.apps[left].Open(soon(), "data")
		must(err)
	}
	for i := 0; i < 100; i++ {
		execute(db, "INSERT INTO numbers VALUES (?, 'while one is away')", -100-i)
	}
	c.start(gone)
	c.waitVotersOf(left, 3)
	// It serves from what it has caught up with: it is made the leader.
	cli, _ = c.leader(left)
	must(cli.Transfer(soon(), c.apps[gone].ID()))
	must(cli.Close())
	check(number(db, "SELECT count(*) FROM numbers") == rows+101, "rows are missing")
	var verdict string
	must(db.QueryRowContext(soon(), "PRAGMA integrity_check").Scan(&verdict))
	check(verdict == "ok", "%s", verdict)
	fmt.Println("--- PASS: a leader hands over, and comes back by a snapshot")
	must(db.Close())
	withServer(dir, c, cert, pool)
	c.closeAll(2)
}

// A dq-server, which DQ_SERVER names, takes the place of one of the application's nodes: it gets a snapshot
// over TLS, leads, and serves go-dqlite's own client.
func withServer(dir string, c *cluster, cert tls.Certificate, pool *x509.CertPool) {
	program := os.Getenv("DQ_SERVER")
	check(program != "", "DQ_SERVER is not set")
	must(c.apps[3].Handover(soon()))
	must(c.apps[3].Close())
	cli, _ := c.leader(1)
	must(cli.Remove(soon(), c.apps[3].ID()))
	must(cli.Close())

	keyDER, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	must(err)
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write := func(file, kind string, der []byte) {
		must(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	write(certFile, "CERTIFICATE", cert.Certificate[0])
	write(keyFile, "PRIVATE KEY", keyDER)
	const id = 4
	server := exec.Command(program, "run", "--id", fmt.Sprint(id), "--address", address(id),
		"--dir", filepath.Join(dir, fmt.Sprint(id)), "--join", address(1), "--roles", "off",
		"--tls-cert", certFile, "--tls-key", keyFile, "--tls-ca", certFile)
	server.Stderr = os.Stderr
	must(server.Start())
	defer server.Process.Kill()

	// The application makes it a voter.
	c.waitVotersOf(2, 3)
	cli, _ = c.leader(2)
	must(cli.Transfer(soon(), id))
	must(cli.Close())

	store := client.NewInmemNodeStore()
	must(store.Set(context.Background(), []client.NodeInfo{{ID: id, Address: address(id)}}))
	config := app.SimpleDialTLSConfig(cert, pool)
	dqlite, err := driver.New(store, driver.WithDialFunc(client.DialFuncWithTLS(client.DefaultDialFunc, config)))
	must(err)
	sql.Register("tls", dqlite)
	db, err := sql.Open("tls", "data")
	must(err)
	execute(db, "INSERT INTO numbers VALUES (-1000, 'on dq-server')")
	check(number(db, "SELECT count(*) FROM numbers") == 20102, "rows are missing")
	must(db.Close())
	cli, info := c.leader(1)
	check(info.ID == id, "%d leads", info.ID)
	must(cli.Transfer(soon(), c.apps[1].ID()))
	must(cli.Close())
	cli, info = c.leader(2)
	check(info.ID == c.apps[1].ID(), "%d leads", info.ID)
	must(cli.Close())
	fmt.Println("--- PASS: a dq-server with TLS is one of them")
}

func (c *cluster) waitVotersOf(via, count int) {
	c.apps[0] = c.apps[1]
	c.apps[1] = c.apps[via]
	c.waitVoters(count)
	c.apps[1] = c.apps[0]
}

// The application accepts and dials connections by itself, and upgrades HTTP requests to them.
func external(dir string) {
	accepted := [4]chan net.Conn{nil, make(chan net.Conn), make(chan net.Conn), make(chan net.Conn)}
	for n := 1; n <= 3; n++ {
		connections := accepted[n]
		listener, err := net.Listen("tcp", address(n))
		must(err)
		go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			must(err)
			connections <- conn
		}))
	}
	dial := func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		request := &http.Request{URL: &url.URL{Scheme: "http", Host: addr}}
		if err := request.Write(conn); err != nil {
			return nil, err
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), request)
		if err != nil {
			return nil, err
		}
		if response.StatusCode != http.StatusSwitchingProtocols {
			return nil, fmt.Errorf("status %s", response.Status)
		}
		return conn, nil
	}
	c := &cluster{dir: dir, options: func(n int) []app.Option {
		return []app.Option{
			app.WithExternalConn(dial, accepted[n]),
			app.WithRolesAdjustmentFrequency(time.Second),
		}
	}}
	c.startAll()
	db, err := c.apps[3].Open(soon(), "data")
	must(err)
	execute(db, "CREATE TABLE numbers (n INTEGER)")
	for i := 0; i < 10; i++ {
		execute(db, "INSERT INTO numbers VALUES (?)", i)
	}
	check(number(db, "SELECT sum(n) FROM numbers") == 45, "rows are missing")
	cli, _ := c.leader(1)
	must(cli.Weight(soon(), 7))
	metadata, err := cli.Describe(soon())
	must(err)
	check(metadata.Weight == 7, "weight %d", metadata.Weight)
	must(cli.Close())
	must(db.Close())
	c.closeAll(3)
	fmt.Println("--- PASS: three voters over connections of the application's")
}

func main() {
	log.SetFlags(log.Lshortfile)
	check(len(os.Args) == 2, "usage: app DIR")
	overTLS(filepath.Join(os.Args[1], "tls"))
	external(filepath.Join(os.Args[1], "external"))
}
